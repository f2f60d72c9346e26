// Server-sent events (WHATWG HTML, section 9.2), in the form that the gateway writes. Pure.

export interface StreamEvent {
  /** The value for `Last-Event-ID`; undefined if this event sets none. */
  id?: string;
  /** "" for a comment, which the gateway sends as a heartbeat. */
  data: string;
}

/** Parses a stream that arrives in chunks of any size. */
export class EventStreamParser {
  #rest = "";

  /** Add a chunk; return the events that are complete now. */
  push(chunk: string): StreamEvent[] {
    const blocks = (this.#rest + chunk).replaceAll("\r\n", "\n").split("\n\n");
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
