// Who is told of changes.

export class Listeners {
  #told = new Set<() => void>();

  /** Tell this listener too, even if it is told already. Returns what ends that, and says whether it just did. */
  add(listener: () => void): () => boolean {
    const told = () => listener();
    this.#told.add(told);
    return () => this.#told.delete(told);
  }

  /** Tell everybody. One who throws keeps nobody from hearing; the browser reports the error. */
  tell(): void {
    for (const listener of [...this.#told]) {
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
