"""What stands in a step for the products with inputs that are mostly zero, for the CPU: the cost follows what is not.

Rows i of a batch are rows indices[i] of a CSR table. Columns in which the batch has something are numbered in the order
in which they are found; ``rows`` has a row of the weight's transpose for each of them, and ``places`` a column's number
for each cell of the batch.
"""

import math

from batchnorm.kernels.cpu import kernel


@kernel
def find_columns(starts, columns, indices, numbers, found, places):
    """Find the columns of a batch: found = how many, and which; numbers (columns,) is -1 before and after."""
    n, cell = 0, 0
    for i in range(len(indices)):
        index = indices[i]
        if not 0 <= index < len(starts) - 1:
            raise IndexError("an index lies outside the examples")
        for k in range(starts[index], starts[index + 1]):
            column = columns[k]
            if numbers[column] < 0:
                numbers[column] = n
                found[1 + n] = column
                n += 1
            places[cell] = numbers[column]
            cell += 1
    for i in range(n):
        numbers[found[1 + i]] = -1
    found[0] = n


@kernel
def product(starts, values, indices, places, rows, z):
    """Multiply a batch with the weight: z[i] = Σ value · rows[column]."""
    cell = 0
    z[:] = 0
    for i in range(len(indices)):
        for k in range(starts[indices[i]], starts[indices[i] + 1]):
            value, row = values[k], rows[places[cell]]
            for j in range(z.shape[1]):
                z[i, j] += value * row[j]
            cell += 1


@kernel
def gradient_of_rows(starts, values, indices, places, dz, gradient):
    """Take the gradient of the weight's rows: gradient[column] = Σ value · dz[i]."""
    cell = 0
    gradient[:] = 0
    for i in range(len(indices)):
        for k in range(starts[indices[i]], starts[indices[i] + 1]):
            value, row = values[k], gradient[places[cell]]
            for j in range(dz.shape[1]):
                row[j] += value * dz[i, j]
            cell += 1


# ---- what columns missed --------------------------------------------------------------------------------------------
# seen (columns,) is the last step that a column took part in, 0 for none. Steps are counted from 1; the optimiser may
# have taken `before` others before. missed[s] = [a, b, c, d] is the product of the steps after s up to the last one, as
# `training.engines.optimizers` has them.


@kernel
def multiply_missed(steps, first, last, missed):
    """Multiply what steps do where the gradient is 0: missed[s] = steps[last] · … · steps[s + 1], s from `first` on."""
    missed[last] = (1.0, 0.0, 0.0, 1.0)
    for s in range(last - 1, first - 1, -1):
        a, b, c, d = missed[s + 1]
        e, f, g, h = steps[s + 1]
        missed[s] = (a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h)


@kernel
def take_sgd(columns, seen, last, before, missed, weight, rows):
    """Take a weight's rows as they are after the steps that they missed."""
    real = weight.dtype.type
    for i in range(len(columns)):
        column = columns[i]
        a = real(missed[seen[column], 0])
        for j in range(weight.shape[1]):
            rows[i, j] = a * weight[column, j]


@kernel
def take_sgd_momentum(columns, seen, last, before, missed, weight, rows, velocity, velocities, momentum, nesterov):
    """Take rows of a weight and of its velocity as they are after the steps that they missed."""
    real = weight.dtype.type
    for i in range(len(columns)):
        column = columns[i]
        step = missed[seen[column]]
        a, b, c, d = real(step[0]), real(step[1]), real(step[2]), real(step[3])
        for j in range(weight.shape[1]):
            w, v = weight[column, j], velocity[column, j]
            rows[i, j] = a * w + b * v
            velocities[i, j] = c * w + d * v


@kernel
def take_adamw(
    columns, seen, last, before, missed, weight, rows, average, averages, square, squares, beta1, beta2, eps
):
    """Take rows of a weight and of AdamW's moments as they are after the steps that they missed.

    Beside the square, eps is what it is in the first of these steps.
    """
    real = weight.dtype.type
    for i in range(len(columns)):
        column = columns[i]
        a, b = real(missed[seen[column], 0]), real(missed[seen[column], 1])
        n = last - seen[column]
        eps_ = real(eps * math.sqrt((1 - beta2 ** (before + seen[column] + 1)) / beta2))
        fade1, fade2 = real(beta1**n), real(beta2**n)
        for j in range(weight.shape[1]):
            m, v = average[column, j], square[column, j]
            rows[i, j] = a * weight[column, j] + b * m / (math.sqrt(v) + eps_)
            averages[i, j] = fade1 * m
            squares[i, j] = fade2 * v


@kernel
def put(columns, rows, table):
    """Put rows back: table[columns[i]] = rows[i]."""
    for i in range(len(columns)):
        for j in range(table.shape[1]):
            table[columns[i], j] = rows[i, j]
