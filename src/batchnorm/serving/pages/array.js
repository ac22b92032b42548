"use strict";

const inputs = document.getElementById("inputs");

onSubmit(document.getElementById("arrays"), () => ask(inputs.value, "application/json"));
