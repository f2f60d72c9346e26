// Parser of the plan: lines of a keyword and a value, with escapes \n, \r and \\. `go` ends the plan.
#include "load.h"

#include <stdlib.h>
#include <string.h>

static char *copy(const char *value, size_t size) {
  char *copied = malloc(size + 1);
  if (!copied) fatal("out of memory for the plan");
  memcpy(copied, value, size);
  copied[size] = 0;
  return copied;
}

static size_t unescape(char *value) {
  char *out = value;
  for (char *at = value; *at; at++) {
    if (*at == '\\' && at[1]) {
      at++;
      *out++ = *at == 'n' ? '\n' : *at == 'r' ? '\r' : *at;
    } else {
      *out++ = *at;
    }
  }
  *out = 0;
  return (size_t)(out - value);
}

static void add_step(struct steps *steps, int what, const char *data, size_t size) {
  steps->all = realloc(steps->all, sizeof *steps->all * (size_t)(steps->count + 1));
  if (!steps->all) fatal("out of memory for the plan");
  steps->all[steps->count].what = what;
  steps->all[steps->count].data = copy(data, size);
  steps->all[steps->count++].size = size;
}

static void add_header(struct stream *stream, const char *line) {
  size_t length = strlen(line);
  stream->request = realloc(stream->request, stream->request_size + length + 3);
  if (!stream->request) fatal("out of memory for the plan");
  stream->request_size += (size_t)sprintf(stream->request + stream->request_size, "%s\r\n", line);
}

static void add_word(struct stream *stream, const char *word, size_t size) {
  stream->words = realloc(stream->words, sizeof *stream->words * (size_t)(stream->word_count + 1));
  if (!stream->words) fatal("out of memory for the plan");
  stream->words[stream->word_count++] = copy(word, size);
}

static int one_of(const char *value, const char *const *names) {
  for (int index = 0; names[index]; index++) {
    if (!strcmp(value, names[index])) return index;
  }
  fatal("the plan contains an unknown value: %s", value);
}

static struct stream *begin_stream(int index, const char *path) {
  char line[1024];
  struct stream *stream = &plan.streams[index];
  stream->number = 1;
  text_make(stream, index, plan.tokens);
  snprintf(line, sizeof line, "GET %s HTTP/1.1", path);
  add_header(stream, line);
  snprintf(line, sizeof line, "Host: %s:%d", plan.host, plan.port);
  add_header(stream, line);
  add_header(stream, "Upgrade: websocket");
  add_header(stream, "Connection: Upgrade");
  add_header(stream, "Sec-WebSocket-Version: 13");
  add_header(stream, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==");
  return stream;
}

static void endpoint(char *value, char *host, int *port) {
  if (sscanf(value, "%63s %d", host, port) != 2) fatal("the plan contains an invalid address: %s", value);
}

// Parse one line of the plan; return true for the last one.
bool read_plan(char *line) {
  static const char *const kinds[] = {"tokenwire", "text", "nats", "socketio", "count", NULL};
  static const char *const replies[] = {"redis", "http", "nats", "none", "provider", NULL};
  static struct stream *stream;
  char *value = strchr(line, ' ');
  if (value) {
    *value++ = 0;
  } else {
    value = line + strlen(line);
  }
  size_t size = unescape(value);
  if (!strcmp(line, "go")) {
    for (int index = 0; index < plan.stream_count; index++) add_header(&plan.streams[index], "");
    return true;
  }
  if (!strcmp(line, "viewers")) {
    endpoint(value, plan.host, &plan.port);
  } else if (!strcmp(line, "kind")) {
    plan.kind = (enum kind)one_of(value, kinds);
  } else if (!strcmp(line, "publisher")) {
    endpoint(value, plan.publisher_host, &plan.publisher_port);
  } else if (!strcmp(line, "replies")) {
    plan.replies = (enum replies)one_of(value, replies);
  } else if (!strcmp(line, "accept")) {
    plan.accept = copy(value, size);
  } else if (!strcmp(line, "first")) {
    plan.first = copy(value, size);
    plan.first_size = size;
  } else if (!strcmp(line, "begin")) {
    plan.begin = copy(value, size);
  } else if (!strcmp(line, "finish")) {
    plan.finish = copy(value, size);
  } else if (!strcmp(line, "connections")) {
    plan.connections = atoi(value);
  } else if (!strcmp(line, "gather")) {
    plan.one_trip = true;
    plan.gather = (uint64_t)(atof(value) * SECOND);
  } else if (!strcmp(line, "window")) {
    plan.window = atof(value) * SECOND;
  } else if (!strcmp(line, "tokens")) {
    plan.tokens = (uint32_t)atoi(value);
  } else if (!strcmp(line, "streams")) {
    plan.stream_count = atoi(value);
    if (plan.stream_count < 1 || plan.stream_count > MAX_STREAMS || plan.tokens < 1 || plan.tokens > MAX_TOKENS) {
      fatal("at most %d streams of %d tokens", MAX_STREAMS, MAX_TOKENS);
    }
    plan.streams = calloc((size_t)plan.stream_count, sizeof *plan.streams);
    if (!plan.streams) fatal("out of memory for %d streams", plan.stream_count);
  } else if (!strcmp(line, "stream")) {
    static int index;
    if (index == plan.stream_count) fatal("the plan contains more streams than announced");
    stream = begin_stream(index++, value);
  } else if (!stream) {
    fatal("the plan contains %s before a stream", line);
  } else if (!strcmp(line, "header")) {
    add_header(stream, value);
  } else if (!strcmp(line, "response")) {
    snprintf(stream->response, sizeof stream->response, "%s", value);
  } else if (!strcmp(line, "number")) {
    stream->number = strtoull(value, NULL, 10);
  } else if (!strcmp(line, "word")) {
    add_word(stream, value, size);
  } else if (!strcmp(line, "send") || !strcmp(line, "resume-send")) {
    add_step(*line == 's' ? &stream->first : &stream->resume, SEND_TEXT, value, size);
  } else if (!strcmp(line, "send-binary") || !strcmp(line, "resume-send-binary")) {
    add_step(*line == 's' ? &stream->first : &stream->resume, SEND_BINARY, value, size);
  } else if (!strcmp(line, "await") || !strcmp(line, "resume-await")) {
    add_step(line[1] == 'w' ? &stream->first : &stream->resume, AWAIT, value, size);
  } else {
    fatal("the plan contains an unknown keyword: %s", line);
  }
  return false;
}
