// What the parts of the load generator share. One thread, one epoll, one clock (CLOCK_MONOTONIC, nanoseconds).
//
// The harness writes a plan on standard input, a line an item (plan.c), then operations (main.c), and reads one line of
// JSON for each. Publisher and viewers are one process, so that a token's delay is a difference of one clock.
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

// ---- text.c: what the streams say, and whether that is what arrives

// A token is a space, its stream in 3 hexadecimal digits, its number in 5 decimal ones.
enum { WIDTH = 9, MOST_STREAMS = 4096, MOST_TOKENS = 100000, GAPS = 8 };

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
  char *text;           // all of it
  char *request;        // the upgrade
  size_t request_size;
  struct steps first, again;
  char **words;         // how a piece is published
  int word_count;
  char response[48];
  uint64_t number;      // the next piece's
  uint32_t sent;        // tokens that were published
  int connection;       // of the publisher
  double base;          // due time of token 0
};

struct gap {
  uint32_t from, to;    // tokens [from, to) never came
};

struct viewer {
  int fd;
  uint16_t stream;
  uint8_t state;
  bool returning;       // it takes the steps of `again`
  bool at_edge;         // has been given a token that was due after `since`
  uint8_t gaps;
  uint16_t step;
  uint32_t receive_buffer;
  uint64_t position;    // bytes of text that it has
  uint64_t from;        // bytes of text that it had when it connected
  uint64_t began;       // when it set out to connect, or was cut off
  uint64_t since;       // when it set out to connect, or all that were cut off did
  uint64_t bytes;       // received since then
  char *carry;          // the beginning of a frame whose rest is to come
  size_t carried, carry_room;
  char *rest;           // the same of a NATS message
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
  bool writing;         // the socket takes no more for now
  char *out;
  size_t at, size, room;
  uint64_t asked, answered, under_way;
  uint64_t departed;    // when the last of one trip at a time did
  uint64_t departs;     // when the next one may
  char *in;
  size_t kept;
};

enum { MOST_CONNECTIONS = 4096, IN = 1 << 16 };
extern struct connection connections[MOST_CONNECTIONS];

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
  bool one_trip;        // one write at a time, of all that is due until then
  uint64_t gather;      // nanoseconds between the writes of a connection that has always something to send
  int stream_count;
  uint32_t tokens;      // of one stream, at the most
  struct stream *streams;
} plan;

extern struct counts {
  // Over the whole run.
  uint64_t tokens, frames, lost, doubled, reordered, corrupted, resets, ended, refused, closed, publish_errors,
      published, publishes, calls;
  // While it is measured.
  uint64_t measured_tokens, measured_frames, measured_bytes, measured_published, measured_publishes;
} counts;

extern struct viewer *viewers;
extern int viewer_count;
extern int epoll;
extern bool measuring;
extern bool publishing;
extern double period;              // nanoseconds between two tokens of a stream
extern uint32_t prefilled;         // tokens of each stream that were published before its clock began
extern struct histogram delay, slip, connected, edge;
extern uint64_t edge_bytes, edge_text;
extern int unsubscribed, off_edge; // viewers on their way
extern char problem[512];          // the first thing that went wrong, for the harness

uint64_t clock_now(void);
void trouble(const char *format, ...) __attribute__((format(printf, 1, 2)));
void fatal(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void watch(int fd, uint32_t events, uint64_t tag, bool known);
bool read_plan(char *line);

// What an epoll event is about: the kind above, an index below.
enum { TAG_VIEWER, TAG_PUBLISHER, TAG_PROVIDER, TAG_TIMER, TAG_INPUT };
#define TAG(kind, index) ((uint64_t)(kind) << 32 | (uint32_t)(index))

#endif
