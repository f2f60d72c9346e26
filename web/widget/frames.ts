// At most one change of the document for each frame that is painted, and none in a tab that nobody sees.

/** The part of the time that drawing may take, so that what is drawn can also be scrolled and typed into. */
const SHARE = 0.3;

/** Calls `draw` once in a next frame, however often it is asked; on a slow machine not in every one. */
export class Frames {
  readonly #draw: () => void;
  #asked = 0;
  /** When it may be drawn again, of `performance.now()`. */
  #due = 0;
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
    this.#asked ||= requestAnimationFrame(() => {
      this.#asked = 0;
      if (performance.now() < this.#due) this.ask();
      else this.now();
    });
  }

  /** Draw at once. */
  now(): void {
    cancelAnimationFrame(this.#asked);
    this.#asked = 0;
    const begun = performance.now();
    this.#draw();
    const ended = performance.now();
    this.#due = ended + (ended - begun) * (1 / SHARE - 1);
  }

  end(): void {
    cancelAnimationFrame(this.#asked);
    document.removeEventListener("visibilitychange", this.#seen);
  }
}
