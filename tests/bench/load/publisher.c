// The publisher: sends each token at its due time, independent of replies (open loop), pipelined over TCP.
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PREFILL_PIECE = 10 };

struct connection connections[MAX_CONNECTIONS];

// Heap of streams, ordered by their next due time.
static struct turn {
  double time;
  int stream;
} *heap;
static int heap_size;

static void sift_down(int index) {
  struct turn moved = heap[index];
  for (int child; (child = 2 * index + 1) < heap_size; index = child) {
    if (child + 1 < heap_size && heap[child + 1].time < heap[child].time) child++;
    if (heap[child].time >= moved.time) break;
    heap[index] = heap[child];
  }
  heap[index] = moved;
}

static char *room(struct connection *connection, size_t size) {
  if (connection->size + size > connection->room) {
    connection->room = (connection->size + size) * 2;
    connection->out = realloc(connection->out, connection->room);
    if (!connection->out) fatal("out of memory for publishes");
  }
  return connection->out + connection->size;
}

void connection_put(struct connection *connection, const char *data, size_t size) {
  memcpy(room(connection, size), data, size);
  connection->size += size;
}

static void put_number(struct connection *connection, const char *before, uint64_t number, const char *after) {
  char *at = room(connection, 64);
  connection->size += (size_t)snprintf(at, 64, "%s%llu%s", before, (unsigned long long)number, after);
}

void connection_flush(struct connection *connection) {
  if (connection->fd < 0) {
    connection->at = connection->size = 0;
    return;
  }
  if (plan.one_trip && !connection->at) {
    uint64_t now = clock_now();
    if (connection->answered < connection->under_way || now < connection->departs) return;
    connection->under_way = connection->asked;
    connection->departed = now;
  }
  while (connection->at < connection->size) {
    ssize_t done = send(connection->fd, connection->out + connection->at, connection->size - connection->at, MSG_NOSIGNAL);
    if (done < 0 && errno == EAGAIN) {
      if (!connection->writing) {
        connection->writing = true;
        watch(connection->fd, EPOLLIN | EPOLLOUT, TAG(TAG_PUBLISHER, connection - connections), true);
      }
      return;
    }
    if (done < 0) fatal("the publisher was disconnected: %s", strerror(errno));
    connection->at += (size_t)done;
  }
  connection->at = connection->size = 0;
  if (connection->writing) {
    connection->writing = false;
    watch(connection->fd, EPOLLIN, TAG(TAG_PUBLISHER, connection - connections), true);
  }
}

void publisher_open(void) {
  if (plan.connections > MAX_CONNECTIONS) plan.connections = MAX_CONNECTIONS;
  for (int index = 0; index < plan.stream_count; index++) plan.streams[index].connection = index % plan.connections;
  if (plan.replies == REPLIES_PROVIDER) {
    provider_listen();
    return;
  }
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)plan.publisher_port)};
  inet_pton(AF_INET, plan.publisher_host, &address.sin_addr);
  for (int index = 0; index < plan.connections; index++) {
    struct connection *connection = &connections[index];
    connection->in = malloc(IN);
    if (!connection->in) fatal("out of memory for a connection");
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(connection->fd, (struct sockaddr *)&address, sizeof address)) {
      fatal("the publisher cannot connect to %s:%d: %s", plan.publisher_host, plan.publisher_port, strerror(errno));
    }
    int on = 1;
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(connection->fd, F_SETFL, O_NONBLOCK);
    watch(connection->fd, EPOLLIN, TAG(TAG_PUBLISHER, index), false);
    if (plan.first_size) connection_put(connection, plan.first, plan.first_size);
    connection_flush(connection);
  }
}

static size_t expand(char *out, const char *template, const struct stream *stream, uint32_t from, uint32_t to) {
  size_t size = 0;
  for (const char *at = template; *at;) {
    if (*at != '{') {
      out[size++] = *at++;
    } else if (!strncmp(at, "{text}", 6)) {
      memcpy(out + size, stream->text + (size_t)from * WIDTH, (size_t)(to - from) * WIDTH);
      size += (size_t)(to - from) * WIDTH;
      at += 6;
    } else if (!strncmp(at, "{size}", 6)) {
      size += (size_t)sprintf(out + size, "%zu", (size_t)(to - from) * WIDTH);
      at += 6;
    } else if (!strncmp(at, "{number}", 8)) {
      size += (size_t)sprintf(out + size, "%llu", (unsigned long long)stream->number);
      at += 8;
    } else if (!strncmp(at, "{previous}", 10)) {
      size += (size_t)sprintf(out + size, "%llu", (unsigned long long)stream->number - 1);
      at += 10;
    } else {
      out[size++] = *at++;
    }
  }
  return size;
}

static void publish(int index, uint32_t from, uint32_t to) {
  static char word[1 << 20];
  struct stream *stream = &plan.streams[index];
  struct connection *connection = &connections[stream->connection];
  if ((size_t)(to - from) * WIDTH + 4096 > sizeof word) fatal("too many tokens in one piece");
  if (plan.replies == REPLIES_REDIS) {
    put_number(connection, "*", (uint64_t)stream->word_count, "\r\n");
    for (int each = 0; each < stream->word_count; each++) {
      size_t size = expand(word, stream->words[each], stream, from, to);
      put_number(connection, "$", size, "\r\n");
      connection_put(connection, word, size);
      connection_put(connection, "\r\n", 2);
    }
  } else {
    char head[4096];
    size_t body = expand(word, stream->words[1], stream, from, to);
    connection_put(connection, head, expand(head, stream->words[0], stream, from, to));
    connection_put(connection, word, body);
  }
  connection->asked++;
  stream->number++;
  stream->sent = to;
  counts.publishes++;
  counts.published += to - from;
  if (measuring) {
    counts.measured_publishes++;
    counts.measured_published += to - from;
  }
}

static void announce(const char *template, uint64_t start, double rate) {
  char out[256];
  size_t size = 0;
  for (const char *at = template; *at && size < sizeof out - 32;) {
    if (!strncmp(at, "{start}", 7)) {
      size += (size_t)sprintf(out + size, "%llu", (unsigned long long)start);
      at += 7;
    } else if (!strncmp(at, "{rate}", 6)) {
      size += (size_t)sprintf(out + size, "%g", rate);
      at += 6;
    } else {
      out[size++] = *at++;
    }
  }
  connection_put(&connections[0], out, size);
  connection_flush(&connections[0]);
}

// Start publishing `rate` tokens a second per stream, after `prefill` tokens of each.
void publisher_start(double rate, uint32_t prefill, uint64_t now) {
  period = SECOND / rate;
  prefilled = prefill;
  publishing = true;
  double start = (double)now + (plan.begin ? 100e6 : 20e6);
  heap = malloc(sizeof *heap * (size_t)plan.stream_count);
  if (!heap) fatal("out of memory for %d streams", plan.stream_count);
  for (int index = 0; index < plan.stream_count; index++) {
    struct stream *stream = &plan.streams[index];
    // Phases are spread evenly.
    stream->base = start + period * index / plan.stream_count;
    if (!stream->word_count) continue;
    for (uint32_t token = 0; token < prefill; token += PREFILL_PIECE) {
      publish(index, token, token + PREFILL_PIECE < prefill ? token + PREFILL_PIECE : prefill);
    }
    // Sorted by due time, which is a valid heap.
    heap[heap_size++] = (struct turn){stream->base, index};
  }
  for (int index = 0; index < plan.connections; index++) connection_flush(&connections[index]);
  if (plan.begin) announce(plan.begin, (uint64_t)start, rate);
}

void publisher_finish(uint64_t now) {
  publishing = false;
  heap_size = 0;
  if (!plan.finish) return;
  if (plan.replies != REPLIES_PROVIDER) {
    announce(plan.finish, now, 0);
    return;
  }
  for (int index = 0; index < plan.stream_count; index++) {
    struct connection *connection = &connections[plan.streams[index].connection];
    connection_put(connection, plan.finish, strlen(plan.finish));
    connection_flush(connection);
  }
}

uint64_t publisher_next(void) {
  uint64_t next = heap_size ? (uint64_t)heap[0].time + 1 : UINT64_MAX;
  for (int index = 0; plan.one_trip && index < plan.connections; index++) {
    struct connection *connection = &connections[index];
    bool waits = connection->size && !connection->writing && connection->answered >= connection->under_way;
    if (waits && connection->departs < next) next = connection->departs;
  }
  return next;
}

void publisher_due(uint64_t now) {
  if (!plan.one_trip && (!heap_size || heap[0].time > (double)now)) return;
  while (heap_size && heap[0].time <= (double)now) {
    struct turn *turn = &heap[0];
    struct stream *stream = &plan.streams[turn->stream];
    uint32_t to = stream->sent + 1;
    if (measuring) histogram_add(&slip, (uint64_t)((double)now - turn->time));
    while (plan.window > 0 && to < plan.tokens && due(stream, to) <= (double)now) to++;
    publish(turn->stream, stream->sent, to);
    if (stream->sent >= plan.tokens) {
      heap[0] = heap[--heap_size];
    } else {
      double next = due(stream, stream->sent), open = (double)now + plan.window;
      turn->time = plan.window > 0 && open > next ? open : next;
    }
    if (heap_size) sift_down(0);
  }
  for (int index = 0; index < plan.connections; index++) {
    if (connections[index].size && !connections[index].writing) connection_flush(&connections[index]);
  }
}

static void wrong(const char *data, size_t size) {
  counts.publish_errors++;
  report_problem("the publisher received an error: %.*s", size < 160 ? (int)size : 160, data);
}

// Parse the RESP2 replies at the start of `data`; return the size of the complete ones.
static size_t redis_replies(struct connection *connection, char *data, size_t size) {
  size_t at = 0;
  while (at < size) {
    char *end = memmem(data + at, size - at, "\r\n", 2);
    if (!end) break;
    char *reply = data + at;
    size_t length = (size_t)(end - reply), used = length + 2;
    if (*reply == '$') {
      long body = strtol(reply + 1, NULL, 10);
      if (body >= 0) {
        if (size - at < used + (size_t)body + 2) break;
        reply += used;
        length = (size_t)body;
        used += (size_t)body + 2;
      }
    }
    connection->answered++;
    bool accepted = *plan.accept ? length == strlen(plan.accept) && !memcmp(reply, plan.accept, length) : data[at] != '-';
    if (!accepted) wrong(reply, length);
    at += used;
  }
  return at;
}

static size_t http_replies(struct connection *connection, char *data, size_t size) {
  size_t at = 0;
  while (at < size) {
    char *end = memmem(data + at, size - at, "\r\n\r\n", 4);
    if (!end) break;
    size_t head = (size_t)(end - (data + at)) + 4, body = 0;
    for (char *line = data + at; line < end; line++) {
      if (!strncasecmp(line, "\ncontent-length:", 16)) body = strtoul(line + 16, NULL, 10);
    }
    if (size - at < head + body) break;
    connection->answered++;
    if (memcmp(data + at, "HTTP/1.1 2", 10)) wrong(data + at, strcspn(data + at, "\r"));
    at += head + body;
  }
  return at;
}

static size_t nats_replies(struct connection *connection, char *data, size_t size) {
  size_t at = 0;
  for (char *end; at < size && (end = memmem(data + at, size - at, "\r\n", 2)); at = (size_t)(end - data) + 2) {
    if (!memcmp(data + at, "PING", 4)) connection_put(connection, "PONG\r\n", 6);
    if (data[at] == '-') wrong(data + at, (size_t)(end - data) - at);
  }
  connection_flush(connection);
  return at;
}

void publisher_event(int index, uint32_t events) {
  struct connection *connection = &connections[index];
  if (events & EPOLLOUT) connection_flush(connection);
  if (!(events & ~(uint32_t)EPOLLOUT)) return;
  ssize_t got = recv(connection->fd, connection->in + connection->kept, IN - 1 - connection->kept, MSG_DONTWAIT);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0 && plan.replies == REPLIES_PROVIDER) {
    // The worker has completed its calls.
    if (publishing) wrong("a disconnect of a call by the worker", 36);
    close(connection->fd);
    connection->fd = -1;
    connection->at = connection->size = 0;
    return;
  }
  if (got <= 0) fatal("the publisher was disconnected: %s", got ? strerror(errno) : "the server closed the connection");
  size_t size = connection->kept + (size_t)got, used = size;
  connection->in[size] = 0;
  switch (plan.replies) {
    case REPLIES_REDIS: used = redis_replies(connection, connection->in, size); break;
    case REPLIES_HTTP: used = http_replies(connection, connection->in, size); break;
    case REPLIES_NATS: used = nats_replies(connection, connection->in, size); break;
    case REPLIES_PROVIDER: used = provider_requests(connection, connection->in, size); break;
    case REPLIES_NONE: connection->answered = connection->asked; break;
  }
  memmove(connection->in, connection->in + used, size - used);
  connection->kept = size - used;
  if (plan.one_trip && connection->size && !connection->writing) {
    if (connection->answered == connection->under_way) connection->departs = connection->departed + plan.gather;
    connection_flush(connection);
  }
}

// Return whether every command was sent and answered.
bool publisher_answered(void) {
  for (int index = 0; index < plan.connections; index++) {
    struct connection *connection = &connections[index];
    if (connection->at < connection->size) return false;
    bool answers = plan.replies == REPLIES_REDIS || plan.replies == REPLIES_HTTP;
    if (answers && connection->answered < connection->asked) return false;
  }
  return true;
}
