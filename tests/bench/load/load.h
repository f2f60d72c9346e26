// Shared declarations of the load generator: one thread, one epoll, one clock (CLOCK_MONOTONIC, nanoseconds).
//
// The harness writes a plan to stdin, one item per line (plan.c), then operations (main.c), and reads one line of JSON
// for each. Publisher and viewers share one process, so that a token's delay is a difference of one clock.
#ifndef LOAD_H
#define LOAD_H

#define _GNU_SOURCE
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/epoll.h>

#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#define SECOND 1000000000.0

// ---- text.c: the expected text of each stream, and its comparison with the received text

// A token is a space, the stream number in 3 hexadecimal digits, and the token number in 5 decimal digits.
enum { WIDTH = 9, MAX_STREAMS = 4096, MAX_TOKENS = 100000, GAPS = 8 };

struct step {
  enum { SEND_TEXT = 1, SEND_BINARY = 2, AWAIT = 3 } what;
  char *data;
  size_t size;
};

struct steps {
  struct step *all;
  int count;
};

struct stream {
  char *text;           // complete text
  char *request;        // HTTP upgrade request
  size_t request_size;
  struct steps first, resume;
  char **words;         // template of a publish
  int word_count;
  char response[48];
  uint64_t number;      // number of the next publish
  uint32_t sent;        // published tokens
  int connection;       // index of the publisher's connection
  double base;          // due time of token 0
};

struct gap {
  uint32_t from, to;    // tokens [from, to) are missing
};

struct viewer {
  int fd;
  uint16_t stream;
  uint8_t state;
  bool returning;       // runs the steps of `resume`
  bool at_edge;         // has received a token that was due after `since`
  uint8_t gaps;
  uint16_t step;
  uint32_t receive_buffer;
  uint64_t position;    // bytes of received text
  uint64_t from;        // bytes of received text at the time of the connect
  uint64_t started;       // time of the connect or of the disconnect
  uint64_t since;       // time of the connect, or of the joint reconnect
  uint64_t bytes;       // received since then
  char *carry;          // received part of an incomplete frame
  size_t carried, carry_room;
  char *rest;           // received part of an incomplete NATS message
  size_t rested, rest_room;
  struct gap missing[GAPS];
  char cursor[48], after[48];
};

enum { QUEUED, CONNECTING, UPGRADING, STEPPING, LIVE, STOPPED, CLOSED };

void text_make(struct stream *stream, int index, uint32_t tokens);
void text_received(struct viewer *viewer, const char *text, size_t size, uint64_t now);
void text_replaced(struct viewer *viewer, const char *text, size_t size, uint64_t now);
void token_counted(struct viewer *viewer, uint64_t now);
double due(const struct stream *stream, uint32_t token);

// ---- histogram.c

enum { BUCKETS = 2304 };

struct histogram {
  uint64_t count, max;
  uint64_t buckets[BUCKETS];
};

void histogram_add(struct histogram *histogram, uint64_t nanoseconds);
void histogram_clear(struct histogram *histogram);
void histogram_print(const char *name, const struct histogram *histogram);

// ---- viewers.c, decode.c

void viewers_add(int count, uint32_t receive_buffer);
void viewers_connect(int concurrency, uint64_t now);
void viewers_cut(uint64_t now);
void viewers_stop(int count);
void viewer_event(struct viewer *viewer, uint32_t events);
void viewer_send(struct viewer *viewer, int opcode, const char *data, size_t size);
void viewer_advance(struct viewer *viewer, uint64_t now);
bool viewer_awaits(struct viewer *viewer, const char *data, size_t size, uint64_t now);
void viewers_pump(void);
void decode(struct viewer *viewer, char *data, size_t size, uint64_t now);

// ---- publisher.c, provider.c

struct connection {
  int fd;
  bool writing;         // write paused: the socket buffer is full
  char *out;
  size_t at, size, room;
  uint64_t asked, answered, under_way;
  uint64_t departed;    // time of the last write, with `one_trip`
  uint64_t departs;     // earliest time of the next write
  char *in;
  size_t kept;
};

enum { MAX_CONNECTIONS = 4096, IN = 1 << 16 };
extern struct connection connections[MAX_CONNECTIONS];

void connection_put(struct connection *connection, const char *data, size_t size);
void connection_flush(struct connection *connection);
void publisher_open(void);
void provider_listen(void);
void provider_accept(void);
size_t provider_requests(struct connection *connection, char *data, size_t size);
void publisher_start(double rate, uint32_t prefill, uint64_t now);
void publisher_finish(uint64_t now);
void publisher_due(uint64_t now);
uint64_t publisher_next(void);
void publisher_event(int index, uint32_t events);
bool publisher_answered(void);

// ---- shared state, defined in main.c

enum kind { KIND_TOKENWIRE, KIND_TEXT, KIND_NATS, KIND_SOCKETIO, KIND_COUNT };
enum replies { REPLIES_REDIS, REPLIES_HTTP, REPLIES_NATS, REPLIES_NONE, REPLIES_PROVIDER };

extern struct plan {
  char host[64], publisher_host[64];
  int port, publisher_port;
  enum kind kind;
  enum replies replies;
  char *accept, *first, *begin, *finish;
  size_t first_size;
  int connections;
  double window;        // nanoseconds
  bool one_trip;        // one write at a time, with everything that is due
  uint64_t gather;      // minimum nanoseconds between two writes of a busy connection
  int stream_count;
  uint32_t tokens;      // maximum per stream
  struct stream *streams;
} plan;

extern struct counts {
  // Whole run.
  uint64_t tokens, frames, lost, duplicated, reordered, corrupted, resets, ended, refused, closed, publish_errors,
      published, publishes, calls;
  // Measured interval.
  uint64_t measured_tokens, measured_frames, measured_bytes, measured_published, measured_publishes;
} counts;

extern struct viewer *viewers;
extern int viewer_count;
extern int epoll;
extern bool measuring;
extern bool publishing;
extern double period;              // nanoseconds between two tokens of a stream
extern uint32_t prefilled;         // tokens of each stream published before its clock started
extern struct histogram delay, slip, connected, edge;
extern uint64_t edge_bytes, edge_text;
extern int unsubscribed, off_edge; // viewers that are not subscribed, or not at the live edge
extern char problem[512];          // first problem, for the harness

uint64_t clock_now(void);
void report_problem(const char *format, ...) __attribute__((format(printf, 1, 2)));
void fatal(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void watch(int fd, uint32_t events, uint64_t tag, bool known);
bool read_plan(char *line);

// Tag of an epoll event: the kind in the upper half, an index in the lower half.
enum { TAG_VIEWER, TAG_PUBLISHER, TAG_PROVIDER, TAG_TIMER, TAG_INPUT };
#define TAG(kind, index) ((uint64_t)(kind) << 32 | (uint32_t)(index))

#endif
