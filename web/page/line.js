// A line to the gateway as this page plays with it: it can be cut, slowed down, and looked at.

/** @typedef {{type: string, [field: string]: unknown}} Frame */

/** What a client takes for its `WebSocket`, and where its frames come by. */
export class Line {
  /** Told of every frame, `sent` or received, in the order in which the client has it. @type {(frame: Frame, sent: boolean) => void} */
  passed = () => {};

  /** Milliseconds for which what comes is gathered; it then arrives together. */
  gather = 0;

  #down = false;

  /** @type {Set<{lose: () => void}>} */
  #sockets = new Set();

  get down() {
    return this.#down;
  }

  /** Nothing passes any more, and nobody can connect. */
  cut() {
    this.#down = true;
    for (const socket of this.#sockets) socket.lose();
  }

  /** It is as before. The client has to be told, or finds out at its next attempt. */
  mend() {
    this.#down = false;
  }

  /** The sockets on this line, with what a client uses of them. */
  get WebSocket() {
    // eslint-disable-next-line @typescript-eslint/no-this-alias
    const line = this;
    return class {
      onopen = () => {};
      onmessage = (/** @type {{data: string}} */ _) => {};
      onclose = (/** @type {{code: number, reason: string}} */ _) => {};
      onerror = () => {};
      /** @type {WebSocket | undefined} */
      #socket;
      /** @type {string[]} */
      #gathered = [];

      constructor(/** @type {string} */ url) {
        if (line.#down) {
          setTimeout(() => this.onclose?.({ code: 1006, reason: "" }), 0);
          return;
        }
        const socket = (this.#socket = new WebSocket(url));
        line.#sockets.add(this);
        socket.onopen = () => this.onopen?.();
        socket.onmessage = ({ data }) => this.#hear(data);
        socket.onclose = ({ code, reason }) => {
          line.#sockets.delete(this);
          this.#deliver();
          this.onclose?.({ code, reason });
        };
      }

      get readyState() {
        return this.#socket?.readyState ?? WebSocket.CLOSED;
      }

      send(/** @type {string} */ data) {
        line.passed(JSON.parse(data), true);
        this.#socket?.send(data);
      }

      close() {
        line.#sockets.delete(this);
        this.#socket?.close();
      }

      /** As when the line breaks: what is under way is gone. */
      lose() {
        if (this.#socket !== undefined) this.#socket.onmessage = this.#socket.onclose = null;
        this.#gathered = [];
        this.close();
        this.onclose?.({ code: 1006, reason: "" });
      }

      #hear(/** @type {string} */ data) {
        this.#gathered.push(data);
        if (line.gather === 0) this.#deliver();
        else if (this.#gathered.length === 1) setTimeout(() => this.#deliver(), line.gather);
      }

      #deliver() {
        for (const data of this.#gathered.splice(0)) {
          line.passed(JSON.parse(data), false);
          this.onmessage?.({ data });
        }
      }
    };
  }
}
