// Server-sent events (WHATWG HTML, section 9.2), as the gateway writes them: text in, events out. Pure.

export interface StreamEvent {
  /** What to resume after; undefined where this event says nothing of it. */
  id?: string;
  /** "" for a comment, which only shows that the line lives. */
  data: string;
}

/** Joins pieces of a stream, however they were cut. */
export class EventStreamParser {
  #rest = "";

  /** Take the next piece; returns the events that are whole now. */
  push(piece: string): StreamEvent[] {
    const blocks = (this.#rest + piece).replaceAll("\r\n", "\n").split("\n\n");
    this.#rest = blocks.pop()!;
    return blocks.map((block) => {
      const event: StreamEvent = { data: "" };
      for (const line of block.split("\n")) {
        if (line.startsWith("id: ")) event.id = line.slice(4);
        if (line.startsWith("data: ")) event.data += line.slice(6);
      }
      return event;
    });
  }
}
