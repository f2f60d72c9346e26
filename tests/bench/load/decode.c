// Decoders of received frames, one per viewer kind (Kind in contender.py).
#include "load.h"

#include <stdlib.h>
#include <string.h>

// Return the start of the value of the member `"name":"` after `at`; NULL if it is absent.
static char *member(char *at, char *end, const char *name) {
  char *found = memmem(at, (size_t)(end - at), name, strlen(name));
  return found ? found + strlen(name) : NULL;
}

static size_t string_size(const char *at, const char *end) {
  // Ids, cursors and texts of these streams need no JSON escapes.
  const char *quote = memchr(at, '"', (size_t)(end - at));
  return quote ? (size_t)(quote - at) : 0;
}

static void keep(char *kept, const char *value, size_t size) {
  if (size >= 48) return;
  memcpy(kept, value, size);
  kept[size] = 0;
}

static void keep_member(char *kept, char *at, char *end, const char *name) {
  char *value = at ? member(at, end, name) : NULL;
  if (value) keep(kept, value, string_size(value, end));
}

static bool starts_with(const char *data, size_t size, const char *with) {
  size_t length = strlen(with);
  return size >= length && !memcmp(data, with, length);
}

// Decode a frame of PROTOCOL.md. The member order of this gateway's deltas has a fast path; others work too.
static void tokenwire(struct viewer *viewer, char *data, size_t size, uint64_t now) {
  static const char head[] = "{\"type\":\"delta\",\"response\":\"", then[] = "\",\"cursor\":\"";
  const struct stream *stream = &plan.streams[viewer->stream];
  char *end = data + size;
  if (LIKELY(starts_with(data, size, head))) {
    char *response = data + sizeof head - 1;
    size_t length = strlen(stream->response);
    if ((size_t)(end - response) < length || memcmp(response, stream->response, length)) {
      counts.corrupted++;
      report_problem("a viewer of %s received a delta of another response: %.60s", stream->response, response);
      return;
    }
    char *cursor = response + length, *text;
    if (LIKELY(starts_with(cursor, (size_t)(end - cursor), then))) {
      cursor += sizeof then - 1;
      size_t written = string_size(cursor, end);
      keep(viewer->cursor, cursor, written);
      text = cursor + written;
      text = starts_with(text, (size_t)(end - text), "\",\"text\":\"") ? text + 10 : member(data, end, "\"text\":\"");
    } else {
      keep_member(viewer->cursor, data, end, "\"cursor\":\"");
      text = member(data, end, "\"text\":\"");
    }
    if (text) text_received(viewer, text, string_size(text, end), now);
    return;
  }
  viewer_awaits(viewer, data, size, now);
  if (starts_with(data, size, "{\"type\":\"snapshot\"")) {
    keep_member(viewer->after, data, end, "\"cursor\":\"");
    char *open = member(data, end, "\"responses\":[{");
    char *text = open ? member(open, end, "\"text\":\"") : NULL;
    keep_member(viewer->cursor, open, end, "\"cursor\":\"");
    if (text) text_replaced(viewer, text, string_size(text, end), now);
  } else if (starts_with(data, size, "{\"type\":\"watching\"") || starts_with(data, size, "{\"type\":\"message\"")) {
    keep_member(viewer->after, data, end, "\"cursor\":\"");
  } else if (starts_with(data, size, "{\"type\":\"start\"") || starts_with(data, size, "{\"type\":\"status\"")) {
    keep_member(viewer->cursor, data, end, "\"cursor\":\"");
  } else if (starts_with(data, size, "{\"type\":\"reset\"")) {
    counts.resets++;
    keep_member(viewer->cursor, data, end, "\"cursor\":\"");
    char *text = member(data, end, "\"text\":\"");
    if (text) text_replaced(viewer, text, string_size(text, end), now);
  } else if (starts_with(data, size, "{\"type\":\"end\"")) {
    counts.ended++;
  } else if (starts_with(data, size, "{\"type\":\"error\"")) {
    counts.corrupted++;
    report_problem("a viewer received an unexpected frame: %.*s", size < 200 ? (int)size : 200, data);
  }
}

// Parse one line or message at the start of `data`; return its size, or 0 if it is incomplete.
static size_t nats_one(struct viewer *viewer, char *data, size_t size, uint64_t now) {
  char *end = memmem(data, size, "\r\n", 2);
  if (!end) return 0;
  size_t line = (size_t)(end - data) + 2;
  if (LIKELY(starts_with(data, size, "MSG "))) {
    char *number = end;
    while (number[-1] != ' ') number--;
    size_t length = strtoul(number, NULL, 10);
    if (size < line + length + 2) return 0;
    text_received(viewer, data + line, length, now);
    return line + length + 2;
  }
  if (viewer_awaits(viewer, data, line, now)) return line;
  if (starts_with(data, size, "PING")) {
    viewer_send(viewer, 2, "PONG\r\n", 6);
  } else if (starts_with(data, size, "-ERR")) {
    counts.corrupted++;
    report_problem("a viewer received an unexpected frame: %.*s", (int)line - 2, data);
  }
  return line;
}

static void nats(struct viewer *viewer, char *data, size_t size, uint64_t now) {
  static char joined[1 << 20];
  if (viewer->rested) {
    if (viewer->rested + size > sizeof joined) fatal("a NATS message is too large");
    memcpy(joined, viewer->rest, viewer->rested);
    memcpy(joined + viewer->rested, data, size);
    size += viewer->rested;
    data = joined;
  }
  size_t at = 0, used;
  while (at < size && (used = nats_one(viewer, data + at, size - at, now))) at += used;
  viewer->rested = size - at;
  if (at == size) return;
  if (viewer->rested > viewer->rest_room) {
    viewer->rest_room = viewer->rested + 256;
    viewer->rest = realloc(viewer->rest, viewer->rest_room);
    if (!viewer->rest) fatal("out of memory for an incomplete NATS message");
  }
  memcpy(viewer->rest, data + at, viewer->rested);
}

static void socketio(struct viewer *viewer, char *data, size_t size, uint64_t now) {
  if (viewer_awaits(viewer, data, size, now)) return;
  if (size == 1 && *data == '2') {
    viewer_send(viewer, 1, "3", 1);
  } else if (LIKELY(starts_with(data, size, "42["))) {
    // The text is the first string after the event name; connection state recovery appends an offset.
    char *text = memmem(data, size, ",\"", 2);
    if (text) text_received(viewer, text + 2, string_size(text + 2, data + size), now);
  } else if (starts_with(data, size, "44") || starts_with(data, size, "41")) {
    counts.corrupted++;
    report_problem("a viewer received an unexpected frame: %.*s", size < 200 ? (int)size : 200, data);
  }
}

void decode(struct viewer *viewer, char *data, size_t size, uint64_t now) {
  switch (plan.kind) {
    case KIND_TOKENWIRE: tokenwire(viewer, data, size, now); break;
    case KIND_NATS: nats(viewer, data, size, now); break;
    case KIND_SOCKETIO: socketio(viewer, data, size, now); break;
    case KIND_TEXT:
      if (!viewer_awaits(viewer, data, size, now)) text_received(viewer, data, size, now);
      break;
    case KIND_COUNT:
      if (!viewer_awaits(viewer, data, size, now)) token_counted(viewer, now);
      break;
  }
}
