// Viewers: connect, upgrade, run their steps, and read frames (RFC 6455) until they are disconnected, stopped or closed.
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROOM = 4 << 20 };

static char buffer[ROOM + 1];
static int room_for_viewers, *queue, queue_head, queue_tail, under_way, max_under_way;

static void carry(char **kept, size_t *size, size_t *room, const char *data, size_t length) {
  if (length > *room) {
    *room = length + 4096;
    *kept = realloc(*kept, *room);
    if (!*kept) fatal("out of memory for an incomplete frame of %zu bytes", length);
  }
  memmove(*kept, data, length);
  *size = length;
}

static void enqueue(int index) {
  viewers[index].state = QUEUED;
  queue[queue_tail] = index;
  queue_tail = (queue_tail + 1) % room_for_viewers;
}

// Add `count` viewers, spread over the streams. A receive buffer of 0 bytes means the system default.
void viewers_add(int count, uint32_t receive_buffer) {
  // One additional slot distinguishes a full ring from an empty one.
  room_for_viewers = viewer_count + count + 1;
  viewers = realloc(viewers, sizeof *viewers * (size_t)room_for_viewers);
  queue = realloc(queue, sizeof *queue * (size_t)room_for_viewers);
  if (!viewers || !queue) fatal("out of memory for %d viewers", room_for_viewers);
  queue_head = queue_tail = 0;
  for (int index = viewer_count; index < viewer_count + count; index++) {
    memset(&viewers[index], 0, sizeof *viewers);
    viewers[index].fd = -1;
    viewers[index].stream = (uint16_t)(index % plan.stream_count);
    viewers[index].receive_buffer = receive_buffer;
    enqueue(index);
  }
  viewer_count += count;
  unsubscribed += count;
  if (publishing) off_edge += count;
}

static void open_one(struct viewer *viewer) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)plan.port)};
  inet_pton(AF_INET, plan.host, &address.sin_addr);
  viewer->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (viewer->fd < 0) fatal("cannot open a socket for a viewer: %s; raise the limit of open files", strerror(errno));
  int on = 1;
  setsockopt(viewer->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (viewer->receive_buffer) {
    // Small segments too: otherwise the server's send buffer holds megabytes on the loopback interface.
    int size = (int)viewer->receive_buffer, segment = 536;
    setsockopt(viewer->fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
    setsockopt(viewer->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
  }
  viewer->state = CONNECTING;
  if (!viewer->returning) viewer->started = viewer->since = clock_now();
  viewer->step = 0;
  viewer->bytes = viewer->carried = viewer->rested = 0;
  viewer->from = viewer->position;
  viewer->at_edge = !publishing;
  under_way++;
  if (connect(viewer->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) {
    fatal("cannot connect to %s:%d: %s", plan.host, plan.port, strerror(errno));
  }
  watch(viewer->fd, EPOLLOUT, TAG(TAG_VIEWER, viewer - viewers), false);
}

// Start connecting queued viewers, `concurrency` at a time.
void viewers_connect(int concurrency, uint64_t now) {
  max_under_way = concurrency;
  for (int index = 0; index < viewer_count; index++) viewers[index].since = now;
  viewers_pump();
}

void viewers_pump(void) {
  while (under_way < max_under_way && queue_head != queue_tail) {
    struct viewer *viewer = &viewers[queue[queue_head]];
    queue_head = (queue_head + 1) % room_for_viewers;
    open_one(viewer);
  }
}

static void closed(struct viewer *viewer, const char *how) {
  bool subscribed = viewer->state == LIVE || viewer->state == STOPPED;
  close(viewer->fd);
  viewer->fd = -1;
  if (subscribed) {
    counts.closed++;
    report_problem("a viewer of stream %d was disconnected: %s", viewer->stream, how);
    viewer->state = CLOSED;
    if (!viewer->at_edge) off_edge--;
    return;
  }
  under_way--;
  counts.refused++;
  report_problem("a viewer was rejected (state %d, step %d): %s", viewer->state, viewer->step, how);
  if (counts.refused > 1000 + 2 * (uint64_t)viewer_count) fatal("too many viewers were rejected: %s", how);
  enqueue((int)(viewer - viewers));
}

// Disconnect all viewers; they are queued for a reconnect with their state.
void viewers_cut(uint64_t now) {
  queue_head = queue_tail = 0;
  for (int index = 0; index < viewer_count; index++) {
    struct viewer *viewer = &viewers[index];
    if (viewer->state != LIVE) continue;
    close(viewer->fd);
    viewer->fd = -1;
    viewer->returning = true;
    viewer->started = now;
    enqueue(index);
    unsubscribed++;
    off_edge++;
  }
}

// Stop reading from the last `count` viewers.
void viewers_stop(int count) {
  for (int index = viewer_count - count; index < viewer_count; index++) {
    if (index < 0 || viewers[index].state != LIVE) continue;
    epoll_ctl(epoll, EPOLL_CTL_DEL, viewers[index].fd, NULL);
    viewers[index].state = STOPPED;
  }
}

static void write_all(struct viewer *viewer, const char *data, size_t size) {
  // Frames of a viewer fit into an empty socket buffer.
  if (send(viewer->fd, data, size, MSG_NOSIGNAL) != (ssize_t)size) shutdown(viewer->fd, SHUT_RDWR);
}

static size_t frame(char *out, int opcode, const char *data, size_t size) {
  static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
  size_t head = 2;
  out[0] = (char)(0x80 | opcode);
  if (size < 126) {
    out[1] = (char)(0x80 | size);
  } else {
    out[1] = (char)(0x80 | 126);
    out[2] = (char)(size >> 8), out[3] = (char)size;
    head = 4;
  }
  memcpy(out + head, mask, 4);
  for (size_t index = 0; index < size; index++) out[head + 4 + index] = (char)(data[index] ^ mask[index & 3]);
  return head + 4 + size;
}

void viewer_send(struct viewer *viewer, int opcode, const char *data, size_t size) {
  char out[1024];
  if (size > sizeof out - 16) fatal("a frame of a viewer has more than %zu bytes", sizeof out - 16);
  write_all(viewer, out, frame(out, opcode, data, size));
}

static size_t filled_in(char *out, size_t room, const struct viewer *viewer, const struct step *step) {
  size_t size = 0;
  for (const char *at = step->data, *end = at + step->size; at < end && size + 64 < room;) {
    const char *value = !strncmp(at, "{cursor}", 8) ? viewer->cursor : !strncmp(at, "{after}", 7) ? viewer->after : NULL;
    if (value) {
      at += value == viewer->cursor ? 8 : 7;
      memcpy(out + size, value, strlen(value));
      size += strlen(value);
    } else {
      out[size++] = *at++;
    }
  }
  return size;
}

static const struct steps *steps_of(const struct viewer *viewer) {
  const struct stream *stream = &plan.streams[viewer->stream];
  return viewer->returning ? &stream->resume : &stream->first;
}

// Run the next steps, up to one that waits.
void viewer_advance(struct viewer *viewer, uint64_t now) {
  const struct steps *steps = steps_of(viewer);
  char out[8192], step_data[2048];
  size_t size = 0;
  while (viewer->step < steps->count && steps->all[viewer->step].what != AWAIT) {
    const struct step *step = &steps->all[viewer->step++];
    size_t length = filled_in(step_data, sizeof step_data, viewer, step);
    if (size + length + 16 > sizeof out) fatal("the steps of a viewer have more than %zu bytes", sizeof out);
    size += frame(out + size, step->what == SEND_TEXT ? 1 : 2, step_data, length);
  }
  viewer->state = STEPPING;
  if (viewer->step == steps->count) {
    viewer->state = LIVE;
    under_way--;
    unsubscribed--;
    histogram_add(&connected, now - viewer->started);
  }
  if (size) write_all(viewer, out, size);
}

// Return whether the viewer waits for this frame; if so, continue with its steps.
bool viewer_awaits(struct viewer *viewer, const char *data, size_t size, uint64_t now) {
  if (LIKELY(viewer->state != STEPPING)) return false;
  const struct step *step = &steps_of(viewer)->all[viewer->step];
  if (size < step->size || memcmp(data, step->data, step->size)) return false;
  viewer->step++;
  viewer_advance(viewer, now);
  return true;
}

// Process the complete frames at the start of `data`; return their size, or -1 when the viewer is closed.
static ssize_t frames(struct viewer *viewer, char *data, size_t size, uint64_t now) {
  size_t at = 0;
  while (size - at >= 2) {
    unsigned char *head = (unsigned char *)data + at;
    int opcode = head[0] & 15;
    uint64_t length = head[1] & 127;
    size_t start = 2;
    if (length == 126) {
      if (size - at < 4) break;
      length = (uint64_t)head[2] << 8 | head[3];
      start = 4;
    } else if (length == 127) {
      if (size - at < 10) break;
      length = 0;
      for (int index = 2; index < 10; index++) length = length << 8 | head[index];
      start = 10;
    }
    if (size - at < start + length) break;
    char *body = data + at + start;
    at += start + length;
    if (opcode == 1 || opcode == 2) {
      counts.frames++;
      if (measuring) counts.measured_frames++;
      if (LIKELY(length)) decode(viewer, body, length, now);
    } else if (opcode == 9) {
      viewer_send(viewer, 10, body, length);
    } else if (opcode == 8) {
      char how[80];
      snprintf(how, sizeof how, "close code %d %.*s", length < 2 ? 0 : (unsigned char)body[0] << 8 | (unsigned char)body[1],
               length < 2 ? 0 : (int)length - 2, body + 2);
      closed(viewer, how);
      return -1;
    } else if (opcode != 10) {
      closed(viewer, "unexpected frame type");
      return -1;
    }
    if (viewer->fd < 0) return -1;
  }
  return (ssize_t)at;
}

static ssize_t upgraded(struct viewer *viewer, char *data, size_t size, uint64_t now) {
  data[size] = 0;
  char *end = strstr(data, "\r\n\r\n");
  if (!end) return 0;
  if (strncmp(data, "HTTP/1.1 101", 12)) {
    char how[120];
    snprintf(how, sizeof how, "%.*s", (int)strcspn(data, "\r"), data);
    closed(viewer, how);
    return -1;
  }
  viewer_advance(viewer, now);
  return end + 4 - data;
}

static void readable(struct viewer *viewer) {
  size_t kept = viewer->carried;
  if (kept) memcpy(buffer, viewer->carry, kept);
  ssize_t got = recv(viewer->fd, buffer + kept, ROOM - kept, 0);
  if (got <= 0) {
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    closed(viewer, got ? strerror(errno) : kept == ROOM ? "frame too large" : "connection closed");
    return;
  }
  uint64_t now = clock_now();
  viewer->bytes += (uint64_t)got;
  if (measuring) counts.measured_bytes += (uint64_t)got;
  size_t size = kept + (size_t)got, used = 0;
  if (viewer->state == UPGRADING) {
    ssize_t done = upgraded(viewer, buffer, size, now);
    if (done < 0) return;
    used = (size_t)done;
  }
  if (viewer->state != UPGRADING) {
    ssize_t done = frames(viewer, buffer + used, size - used, now);
    if (done < 0) return;
    used += (size_t)done;
  }
  viewer->carried = 0;
  if (used < size) carry(&viewer->carry, &viewer->carried, &viewer->carry_room, buffer + used, size - used);
}

void viewer_event(struct viewer *viewer, uint32_t events) {
  if (viewer->fd < 0) return;
  if (viewer->state == CONNECTING) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(viewer->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error || !(events & EPOLLOUT)) {
      closed(viewer, strerror(error));
      return;
    }
    const struct stream *stream = &plan.streams[viewer->stream];
    watch(viewer->fd, EPOLLIN, TAG(TAG_VIEWER, viewer - viewers), true);
    viewer->state = UPGRADING;
    write_all(viewer, stream->request, stream->request_size);
    return;
  }
  readable(viewer);
}
