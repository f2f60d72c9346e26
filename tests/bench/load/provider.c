// A provider of tokens: what a worker calls over HTTP/1.1, one connection a call, and is answered in a chunked stream.
//
// A call names its stream in what the user says: `stream-7`. The opening events come at once (the plan's `first`), tokens
// at their times (the stream's words: the head of a chunk and its body), the closing events at the end (`finish`).
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

static int listener, accepted;

void provider_listen(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)plan.publisher_port)};
  inet_pton(AF_INET, plan.publisher_host, &address.sin_addr);
  listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  int on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) {
    fatal("the provider can not listen on %s:%d: %s", plan.publisher_host, plan.publisher_port, strerror(errno));
  }
  watch(listener, EPOLLIN, TAG(TAG_PROVIDER, 0), false);
  for (int index = 0; index < MOST_CONNECTIONS; index++) connections[index].fd = -1;
  // Of no stream, until one is called.
  for (int index = 0; index < plan.stream_count; index++) plan.streams[index].connection = MOST_CONNECTIONS - 1;
  plan.connections = 0;
}

void provider_accept(void) {
  int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) return;
  if (accepted == MOST_CONNECTIONS - 1) fatal("the worker made more than %d connections", MOST_CONNECTIONS);
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  struct connection *connection = &connections[accepted++];
  plan.connections = accepted;
  connection->fd = fd;
  connection->in = malloc(IN);
  if (!connection->in) fatal("no memory for a call");
  watch(fd, EPOLLIN, TAG(TAG_PUBLISHER, connection - connections), false);
}

// Answer the calls at the beginning of `data`; returns the bytes of those that are whole.
size_t provider_requests(struct connection *connection, char *data, size_t size) {
  char *end = memmem(data, size, "\r\n\r\n", 4);
  if (!end) return 0;
  size_t head = (size_t)(end - data) + 4, body = 0;
  for (char *line = data; line < end; line++) {
    if (!strncasecmp(line, "\ncontent-length:", 16)) body = strtoul(line + 16, NULL, 10);
  }
  if (size < head + body) return 0;
  char *name = memmem(data + head, body, "stream-", 7);
  int stream = name ? atoi(name + 7) : -1;
  if (stream < 0 || stream >= plan.stream_count || plan.streams[stream].connection != MOST_CONNECTIONS - 1) {
    counts.publish_errors++;
    trouble("the provider was called for no stream of its own, or again: %.80s", name ? name : "no name");
    return head + body;
  }
  plan.streams[stream].connection = (int)(connection - connections);
  counts.calls++;
  connection_put(connection, plan.first, plan.first_size);
  connection_flush(connection);
  return head + body;
}
