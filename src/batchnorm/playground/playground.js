"use strict";

/**
 * The arithmetic of the place to play: a network as the page holds it, by inference and in a batch, and what is drawn
 * as the small image that it sees. Plain functions of arrays, in double precision.
 */
const playground = (() => {
  const SMALLEST = 1 / 8; // share of the canvas that is scaled up to the box: a dot stays one
  const THINNEST = 1.5; // pixels of a pen: a thinner one is faint between two of them
  const SELU = { alpha: 1.6732632423543772, scale: 1.0507009873554805 };
  const ACTIVATIONS = {
    relu: (y) => Math.max(0, y),
    elu: (y) => (y > 0 ? y : Math.expm1(y)),
    gelu: (y) => (y * (1 + erf(y * Math.SQRT1_2))) / 2,
    silu: (y) => y * sigmoid(y),
    tanh: Math.tanh,
    sigmoid,
    selu: (y) => SELU.scale * (y > 0 ? y : SELU.alpha * Math.expm1(y)),
    leaky_relu: (y) => (y > 0 ? y : 0.01 * y),
    identity: (y) => y,
  };

  function sigmoid(y) {
    return 1 / (1 + Math.exp(-y));
  }

  /** The error function: 2/√π · exp(−x²) · Σ 2ⁿ x²ⁿ⁺¹ / (1·3·…·(2n+1)). All terms have one sign, nothing cancels. */
  function erf(x) {
    if (Math.abs(x) > 6) return Math.sign(x); // to the last bit
    let term = x;
    let sum = x;
    for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
      term *= (2 * x * x) / (2 * n + 1);
      sum += term;
    }
    return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
  }

  /** The number that 16 bits mean (IEEE 754, binary16); none here is infinite. */
  function half(bits) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
  }

  /** Numbers of base64: bytes, singles, or halves times a power of two. */
  function decode({ kind, exponent, data }) {
    const text = atob(data);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    if (kind === "byte") return Float64Array.from(bytes);
    const view = new DataView(bytes.buffer);
    const factor = 2 ** exponent;
    const size = kind === "float" ? 4 : 2;
    const numbers = new Float64Array(bytes.length / size);
    for (let i = 0; i < numbers.length; i++) {
      numbers[i] = kind === "float" ? view.getFloat32(i * size, true) : half(view.getUint16(i * size, true)) * factor;
    }
    return numbers;
  }

  /** The network of a document, its numbers decoded. */
  function read({ activation, eps, layers }) {
    const parts = (norm) => Object.fromEntries(Object.entries(norm).map(([name, packed]) => [name, decode(packed)]));
    return {
      activation: ACTIVATIONS[activation],
      eps,
      layers: layers.map(({ inputs, units, weight, bias, norm }) => ({
        inputs,
        units,
        weight: decode(weight), // (units, inputs), row by row
        bias: bias && decode(bias),
        norm: norm && parts(norm),
      })),
    };
  }

  function linear({ inputs, units, weight, bias }, x) {
    const y = new Float64Array(units);
    for (let unit = 0; unit < units; unit++) {
      let sum = bias ? bias[unit] : 0;
      for (let i = 0, at = unit * inputs; i < inputs; i++) sum += weight[at + i] * x[i];
      y[unit] = sum;
    }
    return y;
  }

  /** Mean and biased variance of a unit over a batch. */
  function moments(rows, unit) {
    let mean = 0;
    for (const row of rows) mean += row[unit] / rows.length;
    let variance = 0;
    for (const row of rows) variance += (row[unit] - mean) ** 2 / rows.length;
    return [mean, variance];
  }

  /** Batch norm, in place: γ (x − mean) / √(variance + ε) + β, with the batch's statistics or the running ones. */
  function normalize({ gamma, beta, mean, var: variance }, eps, rows, inBatch) {
    for (let unit = 0; unit < gamma.length; unit++) {
      const [m, v] = inBatch ? moments(rows, unit) : [mean[unit], variance[unit]];
      const factor = gamma[unit] / Math.sqrt(v + eps);
      for (const row of rows) row[unit] = (row[unit] - m) * factor + beta[unit];
    }
  }

  /** The network's outputs for images (as it takes them): by inference, or normalised together. */
  function logits({ layers, activation, eps }, images, inBatch) {
    let rows = images;
    layers.forEach((layer, number) => {
      rows = rows.map((row) => linear(layer, row));
      if (layer.norm) normalize(layer.norm, eps, rows, inBatch);
      if (number < layers.length - 1) rows = rows.map((row) => row.map(activation));
    });
    return rows;
  }

  /** What outputs mean: probabilities of classes, of labels each by itself, or values in their unit. */
  function answer({ task, mean, deviation }, outputs) {
    if (task === "labels") return outputs.map(sigmoid);
    if (task === "regression") return mean ? outputs.map((output, i) => output * deviation[i] + mean[i]) : outputs;
    const largest = outputs.reduce((one, other) => Math.max(one, other));
    const powers = outputs.map((output) => Math.exp(output - largest));
    const sum = powers.reduce((one, other) => one + other);
    return powers.map((power) => power / sum);
  }

  /** How far a point is from a stroke, a list of points [x, y]; squared. */
  function squaredDistance(stroke, x, y) {
    let least = Infinity;
    let [x0, y0] = stroke[0];
    for (let i = 0; i < stroke.length; i++) {
      const x1 = stroke[i][0];
      const y1 = stroke[i][1];
      const dx = x1 - x0;
      const dy = y1 - y0;
      const along = Math.min(1, Math.max(0, ((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy || 1)));
      least = Math.min(least, (x - x0 - along * dx) ** 2 + (y - y0 - along * dy) ** 2);
      x0 = x1;
      y0 = y1;
    }
    return least;
  }

  /** How much of each pixel a pen of so many pixels covers, between 0 and 1. */
  function covered({ width, height }, strokes, pen) {
    return Float64Array.from({ length: width * height }, (_, at) => {
      const [x, y] = [(at % width) + 0.5, Math.floor(at / width) + 0.5];
      const least = Math.sqrt(Math.min(...strokes.map((stroke) => squaredDistance(stroke, x, y))));
      return Math.min(1, Math.max(0, pen / 2 - least + 0.5));
    });
  }

  /**
   * Strokes as a small image, as MNIST has it: scaled into the box, then moved to the centre of mass, within the image.
   * Points are shares of the canvas's longer side, the pen is a share of the box; no pixel of a canvas is read back.
   */
  function picture(inputs, strokes, pen) {
    const { width, height, extent } = inputs;
    const thick = Math.max(THINNEST, pen * extent * Math.min(width, height));
    const sides = [width, height];
    const ends = sides.map((_, axis) => {
      const along = strokes.flat().map((point) => point[axis]);
      return [along.reduce((a, b) => Math.min(a, b)), along.reduce((a, b) => Math.max(a, b))];
    });
    const spans = ends.map(([low, high]) => high - low);
    const fitting = sides.map((side, axis) => (extent * side - thick) / Math.max(spans[axis], SMALLEST));
    const factor = Math.max(1, Math.min(...fitting)); // pixels of a share
    const moved = (p, axis, shift) => (p - (ends[axis][0] + ends[axis][1]) / 2) * factor + sides[axis] / 2 + shift;
    const put = (shift) =>
      strokes.map((stroke) => stroke.map((point) => point.map((p, axis) => moved(p, axis, shift[axis]))));
    const first = covered(inputs, put([0, 0]), thick);
    const mass = first.reduce((a, b) => a + b);
    const shift = sides.map((side, axis) => {
      const along = (at) => (axis ? Math.floor(at / width) : at % width) + 0.5;
      const centre = first.reduce((sum, ink, at) => sum + ink * along(at), 0) / mass;
      const room = Math.max(0, (side - spans[axis] * factor - thick) / 2);
      return Math.min(room, Math.max(-room, side / 2 - centre));
    });
    return covered(inputs, put(shift), thick);
  }

  /** Ink as the data's values, every channel the same. */
  function values({ channels, background, ink, whole }, coverage, isInverted) {
    const [from, to] = isInverted ? [ink, background] : [background, ink];
    const exact = coverage.map((share) => from + share * (to - from));
    const plane = whole ? exact.map(Math.round) : exact;
    const all = new Float64Array(channels * plane.length);
    for (let channel = 0; channel < channels; channel++) all.set(plane, channel * plane.length);
    return all;
  }

  return { read, decode, logits, answer, picture, values };
})();
