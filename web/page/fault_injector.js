// Connection faults for the page at /: disconnect, delay, and an observer of all frames.

/** @typedef {{type: string, [field: string]: unknown}} Frame */

/** Provides a `WebSocket` class for a client, and injects faults into its sockets. */
export class FaultInjector {
  /** Called with every sent or received frame, in the client's order. @type {(frame: Frame, sent: boolean) => void} */
  onFrame = () => {};

  /** Milliseconds for which received frames are buffered before they are delivered together. */
  bufferMs = 0;

  #disconnected = false;

  /** @type {Set<{lose: () => void}>} */
  #sockets = new Set();

  get disconnected() {
    return this.#disconnected;
  }

  /** Close all sockets, and refuse new ones. */
  disconnect() {
    this.#disconnected = true;
    for (const socket of this.#sockets) socket.lose();
  }

  /** Allow new sockets. The client connects at its next attempt, or after `reconnect()`. */
  restore() {
    this.#disconnected = false;
  }

  /** The WebSocket class for `connect`, with the members that the client uses. */
  get WebSocket() {
    const injector = this;
    return class {
      /** @type {(() => void) | null} */
      onopen = null;
      /** @type {((event: {data: string}) => void) | null} */
      onmessage = null;
      /** @type {((event: {code: number, reason: string}) => void) | null} */
      onclose = null;
      onerror = () => {};
      /** @type {WebSocket | undefined} */
      #socket;
      /** @type {string[]} */
      #buffer = [];

      constructor(/** @type {string} */ url) {
        if (injector.#disconnected) {
          setTimeout(() => this.onclose?.({ code: 1006, reason: "" }), 0);
          return;
        }
        const socket = new WebSocket(url);
        this.#socket = socket;
        injector.#sockets.add(this);
        socket.onopen = () => this.onopen?.();
        socket.onmessage = ({ data }) => this.#receive(data);
        socket.onclose = ({ code, reason }) => {
          injector.#sockets.delete(this);
          this.#deliver();
          this.onclose?.({ code, reason });
        };
      }

      get readyState() {
        return this.#socket?.readyState ?? WebSocket.CLOSED;
      }

      send(/** @type {string} */ data) {
        injector.onFrame(JSON.parse(data), true);
        this.#socket?.send(data);
      }

      close() {
        injector.#sockets.delete(this);
        this.#socket?.close();
      }

      /** Close like a broken connection: buffered frames are lost. */
      lose() {
        if (this.#socket !== undefined) this.#socket.onmessage = this.#socket.onclose = null;
        this.#buffer = [];
        this.close();
        this.onclose?.({ code: 1006, reason: "" });
      }

      #receive(/** @type {string} */ data) {
        this.#buffer.push(data);
        if (injector.bufferMs === 0) this.#deliver();
        else if (this.#buffer.length === 1) setTimeout(() => this.#deliver(), injector.bufferMs);
      }

      #deliver() {
        for (const data of this.#buffer.splice(0)) {
          injector.onFrame(JSON.parse(data), false);
          this.onmessage?.({ data });
        }
      }
    };
  }
}
