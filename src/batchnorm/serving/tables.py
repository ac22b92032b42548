"""A run on a table, which answers rows of JSON."""

import json
from typing import Any

from batchnorm.errors import InputError, in_words
from batchnorm.serving.bodies import list_of_body, rows_of
from batchnorm.serving.limits import Limits
from batchnorm.tables import (
    InputColumn,
    TableRun,
    input_columns,
    outputs_of,
    shortened,
    strange_values,
    table_of_rows,
)

_OF_JSON: dict[str, dict[str, Any]] = {
    "number": {"type": ["number", "boolean", "null"]},
    "duration": {"type": ["number", "string", "null"]},
    "time": {"type": ["string", "null"]},
    "zoned time": {"type": ["string", "null"]},
    "text": {"type": ["string", "number", "boolean", "null"]},
    "unused": {},
}
_MOST_VALUES = 200  # of a text, that a page offers


class ServedTable:
    """A run on a table.

    Parameters
    ----------
    run : TableRun
    limits : Limits
        Of which the rows of a request are looked at here.
    """

    content_type = "application/json"
    page = "table.html"

    def __init__(self, run: TableRun, limits: Limits):
        self._run, self._limits = run, limits
        self.columns = input_columns(run)
        self._known = {*run.columns, *run.settings["target"]}

    @property
    def title(self) -> str:
        """What is predicted."""
        return ", ".join(self._run.settings["target"])

    def offered(self, column: InputColumn) -> tuple[str, ...]:
        """Return values of a text to choose from."""
        return column.values[:_MOST_VALUES]

    def answer(self, body: bytes) -> dict[str, Any]:
        """Return what is predicted for the rows of a body.

        Returns
        -------
        dict
            "predictions" has for each row what `batchnorm predict` writes, "columns_passed_over" those that were not
            trained on, "strange_values" by column how many values were rare, or not there, in training.

        Raises
        ------
        InputError
            If the body is not as `schemas` says.
        """
        rows = self._rows(body)
        table = table_of_rows(self.columns, rows)
        try:
            outputs = outputs_of(self._run, table)
        except ValueError as error:
            raise InputError(in_words(error)) from error
        return {
            "predictions": rows_of(outputs),
            "columns_passed_over": [
                name for name in dict.fromkeys(key for row in rows for key in row) if self._is_new(name)
            ],
            "strange_values": strange_values(self._run, table),
        }

    def _is_new(self, name: str) -> bool:
        return name not in self._known

    def _rows(self, body: bytes) -> list[dict[str, Any]]:
        rows = list_of_body(body, "rows", '{"rows": [{"column": value, …}, …]}', self._limits.rows)
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict):
                raise InputError(f'row {number} is {shortened(row)}, expected an object such as {{"column": 1}}')
        return rows

    def example(self) -> bytes:
        """Return the body of a row of usual values."""
        return json.dumps({"rows": [{column.name: column.example for column in self.columns}]}, indent=2).encode()

    @property
    def shown_example(self) -> str:
        """The example, for the page that tells how to ask."""
        return self.example().decode()

    def schemas(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the JSON schemas of a body and of an answer."""
        columns = {column.name: {**_OF_JSON[column.kind], "description": column.expected} for column in self.columns}
        row = {"type": "object", "properties": columns, "required": list(columns)}
        body = {
            "type": "object",
            "properties": {"rows": {"type": "array", "items": row, "minItems": 1, "maxItems": self._limits.rows}},
            "required": ["rows"],
            "additionalProperties": False,
        }
        answer = {
            "type": "object",
            "properties": {
                "predictions": {"type": "array", "items": {"type": "object"}, "description": self._described()},
                "columns_passed_over": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "Columns of the rows that were not trained on.",
                },
                "strange_values": {
                    "type": "object",
                    "additionalProperties": {"type": "integer"},
                    "description": "By column, how many values were rare, or not there, in training.",
                },
            },
            "required": ["predictions", "columns_passed_over", "strange_values"],
        }
        return body, answer

    def _described(self) -> str:
        answer = self.answer(self.example())["predictions"][0]
        return f"A row each, with {', '.join(answer)}."
