// Limits rendering to one update for each animation frame, and none in a hidden tab.

/** Maximum share of the time for rendering, so that scrolling and typing stay responsive. */
const MAX_RENDER_SHARE = 0.3;

/** Coalesces requests to draw into one call of `draw` in a later animation frame. */
export class Frames {
  readonly #draw: () => void;
  #request = 0;
  /** Earliest time of the next draw, as `performance.now()`. */
  #nextDraw = 0;
  readonly #visible = () => {
    if (document.visibilityState === "visible" && this.#request !== 0) this.now();
  };

  constructor(draw: () => void) {
    this.#draw = draw;
    // A hidden tab gets no animation frames, so it is drawn when it becomes visible.
    document.addEventListener("visibilitychange", this.#visible);
  }

  /** Draw in a later animation frame. */
  request(): void {
    this.#request ||= requestAnimationFrame(() => {
      this.#request = 0;
      if (performance.now() < this.#nextDraw) this.request();
      else this.now();
    });
  }

  /** Draw immediately. */
  now(): void {
    cancelAnimationFrame(this.#request);
    this.#request = 0;
    const start = performance.now();
    this.#draw();
    const end = performance.now();
    this.#nextDraw = end + (end - start) * (1 / MAX_RENDER_SHARE - 1);
  }

  end(): void {
    cancelAnimationFrame(this.#request);
    document.removeEventListener("visibilitychange", this.#visible);
  }
}
