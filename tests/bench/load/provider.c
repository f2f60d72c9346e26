// The fake provider: a worker calls it over HTTP/1.1, one connection per call, and gets a chunked stream.
//
// The prompt of a call names its stream: `stream-7`. Opening events are sent immediately (`first` of the plan), tokens at
// their due times (the stream's words: chunk header and chunk body), closing events at the end (`finish`).
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
    fatal("the provider cannot listen on %s:%d: %s", plan.publisher_host, plan.publisher_port, strerror(errno));
  }
  watch(listener, EPOLLIN, TAG(TAG_PROVIDER, 0), false);
  for (int index = 0; index < MAX_CONNECTIONS; index++) connections[index].fd = -1;
  // No stream until the call arrives.
  for (int index = 0; index < plan.stream_count; index++) plan.streams[index].connection = MAX_CONNECTIONS - 1;
  plan.connections = 0;
}

void provider_accept(void) {
  int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) return;
  if (accepted == MAX_CONNECTIONS - 1) fatal("the worker made more than %d connections", MAX_CONNECTIONS);
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  struct connection *connection = &connections[accepted++];
  plan.connections = accepted;
  connection->fd = fd;
  connection->in = malloc(IN);
  if (!connection->in) fatal("out of memory for a call");
  watch(fd, EPOLLIN, TAG(TAG_PUBLISHER, connection - connections), false);
}

// Process the calls at the start of `data`; return the size of the complete ones.
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
  if (stream < 0 || stream >= plan.stream_count || plan.streams[stream].connection != MAX_CONNECTIONS - 1) {
    counts.publish_errors++;
    report_problem("the provider was called for an unknown stream or twice: %.80s", name ? name : "no name");
    return head + body;
  }
  plan.streams[stream].connection = (int)(connection - connections);
  counts.calls++;
  connection_put(connection, plan.first, plan.first_size);
  connection_flush(connection);
  return head + body;
}
