// The expected text of each stream. Every byte that a viewer receives is compared with it.
#include "load.h"

#include <stdlib.h>
#include <string.h>

void text_make(struct stream *stream, int index, uint32_t tokens) {
  static const char digits[] = "0123456789abcdef";
  stream->text = malloc((size_t)tokens * WIDTH + 1);
  if (!stream->text) fatal("out of memory for the text of %d streams", plan.stream_count);
  char *at = stream->text;
  for (uint32_t token = 0; token < tokens; token++, at += WIDTH) {
    at[0] = ' ';
    at[1] = digits[index >> 8 & 15], at[2] = digits[index >> 4 & 15], at[3] = digits[index & 15];
    uint32_t left = token;
    for (int digit = 8; digit > 3; digit--, left /= 10) at[digit] = digits[left % 10];
  }
  *at = 0;
}

double due(const struct stream *stream, uint32_t token) {
  return stream->base + ((double)token - (double)prefilled) * period;
}

static void arrived(struct viewer *viewer, uint32_t from, uint32_t to, uint64_t now) {
  const struct stream *stream = &plan.streams[viewer->stream];
  counts.tokens += to - from;
  if (from < prefilled) from = prefilled;
  if (from >= to) return;
  double late = (double)now - due(stream, to - 1);
  if (!viewer->at_edge && publishing && (double)now - late >= (double)viewer->since) {
    viewer->at_edge = true;
    off_edge--;
    histogram_add(&edge, now - viewer->started);
    edge_bytes += viewer->bytes;
    edge_text += (uint64_t)to * WIDTH - viewer->from;
  }
  if (!measuring) return;
  counts.measured_tokens += to - from;
  for (uint32_t token = to; token-- > from; late += period) histogram_add(&delay, late > 0 ? (uint64_t)late : 0);
}

static bool in_a_gap(struct viewer *viewer, uint32_t token) {
  for (int index = 0; index < viewer->gaps; index++) {
    struct gap *gap = &viewer->missing[index];
    if (token < gap->from || token >= gap->to) continue;
    if (token == gap->from) {
      gap->from++;
    } else if (token == gap->to - 1) {
      gap->to--;
    } else if (viewer->gaps < GAPS) {
      viewer->missing[viewer->gaps++] = (struct gap){token + 1, gap->to};
      gap->to = token;
    }
    return true;
  }
  return false;
}

// Unexpected text: classify each of its tokens, and continue after it.
static void classify(struct viewer *viewer, const char *text, size_t size, uint64_t now) {
  if (size % WIDTH || viewer->position % WIDTH) {
    counts.corrupted++;
    report_problem("a viewer of stream %d received %zu bytes that are not tokens: %.40s", viewer->stream, size, text);
    return;
  }
  for (const char *at = text; at < text + size; at += WIDTH) {
    char piece[WIDTH + 1], *end;
    memcpy(piece, at, WIDTH);
    piece[WIDTH] = 0;
    uint32_t token = (uint32_t)strtoul(piece + 4, &end, 10), next = (uint32_t)(viewer->position / WIDTH);
    if (token >= plan.tokens || memcmp(plan.streams[viewer->stream].text + (size_t)token * WIDTH, at, WIDTH)) {
      counts.corrupted++;
      report_problem("a viewer of stream %d received text that is not in the stream: %s", viewer->stream, piece);
    } else if (token >= next) {
      if (token > next) {
        counts.lost += token - next;
        report_problem("a viewer of stream %d lost tokens %u to %u", viewer->stream, next, token - 1);
        if (viewer->gaps < GAPS) viewer->missing[viewer->gaps++] = (struct gap){next, token};
      }
      arrived(viewer, token, token + 1, now);
      viewer->position = (uint64_t)(token + 1) * WIDTH;
    } else if (in_a_gap(viewer, token)) {
      counts.lost--;
      counts.reordered++;
      report_problem("a viewer of stream %d received token %u after %u", viewer->stream, token, next - 1);
    } else {
      counts.duplicated++;
      report_problem("a viewer of stream %d received token %u twice", viewer->stream, token);
    }
  }
}

// Append text to a viewer.
void text_received(struct viewer *viewer, const char *text, size_t size, uint64_t now) {
  uint64_t at = viewer->position, end = at + size;
  if (LIKELY(end <= (uint64_t)plan.tokens * WIDTH && !memcmp(plan.streams[viewer->stream].text + at, text, size))) {
    viewer->position = end;
    arrived(viewer, (uint32_t)(at / WIDTH), (uint32_t)(end / WIDTH), now);
  } else {
    classify(viewer, text, size, now);
  }
}

// Replace the text of a viewer.
void text_replaced(struct viewer *viewer, const char *text, size_t size, uint64_t now) {
  viewer->gaps = 0;
  if (size > (uint64_t)plan.tokens * WIDTH || memcmp(plan.streams[viewer->stream].text, text, size)) {
    counts.corrupted++;
    report_problem("a viewer of stream %d received %zu bytes that are not a prefix of the stream", viewer->stream, size);
    return;
  }
  viewer->position = size;
  if (!viewer->at_edge && size) arrived(viewer, (uint32_t)(size / WIDTH) - 1, (uint32_t)(size / WIDTH), now);
}

// Count a frame as the next token.
void token_counted(struct viewer *viewer, uint64_t now) {
  uint32_t token = (uint32_t)(viewer->position / WIDTH);
  viewer->position += WIDTH;
  arrived(viewer, token, token + 1, now);
}
