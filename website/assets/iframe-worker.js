/* A worker in a frame, for pages that are opened as files: browsers let these start none, and the search needs one. */
"use strict";

if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.onmessage = null;
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.ready = new Promise((resolve) => {
        this.frame.addEventListener("load", () => this.run(String(new URL(url, location)), resolve), { once: true });
      });
      document.body.append(this.frame);
    }

    run(url, done) {
      const scope = this.frame.contentWindow;
      scope.postMessage = (data) => setTimeout(() => this.receive(structuredClone(data)));
      const script = scope.document.createElement("script");
      script.addEventListener("load", () => done(scope));
      script.src = url;
      scope.document.head.append(script);
    }

    receive(data) {
      const message = new MessageEvent("message", { data });
      this.dispatchEvent(message);
      this.onmessage?.(message);
    }

    postMessage(data) {
      this.ready.then((scope) => scope.dispatchEvent(new MessageEvent("message", { data: structuredClone(data) })));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
