// At most one change of the document for each frame that is painted, and none in a tab that nobody sees.

/** Calls `draw` once in the next frame, however often it is asked. */
export class Frames {
  readonly #draw: () => void;
  #asked = 0;
  readonly #seen = () => {
    if (document.visibilityState === "visible" && this.#asked !== 0) this.now();
  };

  constructor(draw: () => void) {
    this.#draw = draw;
    // A hidden tab gets no frames: what has come meanwhile is drawn when it is looked at.
    document.addEventListener("visibilitychange", this.#seen);
  }

  /** Draw soon. */
  ask(): void {
    this.#asked ||= requestAnimationFrame(() => this.now());
  }

  /** Draw at once. */
  now(): void {
    cancelAnimationFrame(this.#asked);
    this.#asked = 0;
    this.#draw();
  }

  end(): void {
    cancelAnimationFrame(this.#asked);
    document.removeEventListener("visibilitychange", this.#seen);
  }
}
