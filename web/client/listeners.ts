/** A set of change listeners. */
export class Listeners {
  #entries = new Set<() => void>();

  /** Add a listener, even one that was added before. Returns a function that removes it, true the first time. */
  add(listener: () => void): () => boolean {
    // A new function for each call, so that each removal removes one subscription.
    const entry = () => listener();
    this.#entries.add(entry);
    return () => this.#entries.delete(entry);
  }

  /** Call every listener. An exception does not stop the others; the browser reports it. */
  notify(): void {
    for (const listener of [...this.#entries]) {
      try {
        listener();
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}
