/* The search finds what has every word of a query: of a pasted message, these are the words of the section most like it. */
"use strict";

{
  const FEWEST = 5; // words of what was pasted, not typed
  const KIND = /[\w.]*(?:Error|Exception|Warning):\s/; // before the message, at the end of a traceback

  const wordsOf = (text, separator) => new Set(text.toLowerCase().split(separator).filter(Boolean));

  window.Worker = class extends window.Worker {
    postMessage(message, ...others) {
      const { config, items, input } = message.data ?? {};
      if (items) {
        this.separator = new RegExp(config.separator, "u");
        this.items = items;
      }
      const data = typeof input === "string" ? { ...message.data, input: this.shortened(input) } : message.data;
      super.postMessage({ ...message, data }, ...others);
    }

    shortened(input) {
      const words = [...wordsOf(input.split(KIND).at(-1), this.separator)];
      if (words.length < FEWEST) return input;
      this.sections ??= this.items.map(({ title, text }) =>
        wordsOf(`${title} ${text}`.replace(/<[^>]*>/g, " "), this.separator),
      );
      const weight = (word) => Math.log(this.sections.length / this.sections.filter((one) => one.has(word)).length);
      const known = words.filter((word) => this.sections.some((one) => one.has(word)));
      const weights = new Map(known.map((word) => [word, weight(word)])); // a rare word tells more
      const found = this.sections.map((one) => known.filter((word) => one.has(word)));
      const total = (some) => some.reduce((sum, word) => sum + weights.get(word), 0);
      const best = found.reduce((one, other) => (total(other) > total(one) ? other : one), []);
      return best.length ? best.join(" ") : input;
    }
  };
}
