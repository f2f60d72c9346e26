// The load generator: one loop over viewers, publisher and operations of the harness. Each operation returns a line of JSON.
//
//   connect COUNT CONCURRENCY BUFFER UNTIL WITHIN   connect more viewers; UNTIL is `subscribed` or `edge`
//   start RATE PREFILL                              start publishing
//   wait SECONDS                                    wait
//   measure SECONDS                                 measure; returns two lines, at the start and at the end
//   cut | stop COUNT                                disconnect all viewers | the last COUNT viewers stop reading
//   address HOST PORT                               set the address of later connects
//   calls WITHIN                                    wait until every stream of the provider was called
//   resume CONCURRENCY WITHIN                       reconnect disconnected viewers; wait until they are at the live edge
//   drain WITHIN                                    stop publishing; wait until all viewers have all tokens
//   quit
#include "load.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

struct plan plan = {.connections = 1, .accept = ""};
struct counts counts;
struct viewer *viewers;
int viewer_count, epoll, unsubscribed, off_edge;
bool measuring, publishing;
double period = SECOND;
uint32_t prefilled;
struct histogram delay, slip, connected, edge;
uint64_t edge_bytes, edge_text;
char problem[512];

enum { MAX_EVENTS = 512, QUIET = 300000000, CHECK_INTERVAL = 5000000 };

static struct operation {
  char name[16], until[16];
  uint64_t started, deadline;
  bool waits;           // ends at its deadline, not on a condition
} operation;

static int timer;
static bool planned;

uint64_t clock_now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

void report_problem(const char *format, ...) {
  if (*problem) return;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(problem, sizeof problem, format, arguments);
  va_end(arguments);
}

void fatal(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  exit(1);
}

void watch(int fd, uint32_t events, uint64_t tag, bool known) {
  struct epoll_event event = {.events = events, .data.u64 = tag};
  if (epoll_ctl(epoll, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event)) fatal("epoll_ctl: %s", strerror(errno));
}

static uint64_t missing(void) {
  uint64_t count = 0;
  for (int index = 0; index < viewer_count; index++) {
    struct viewer *viewer = &viewers[index];
    uint64_t sent = (uint64_t)plan.streams[viewer->stream].sent * WIDTH;
    if (viewer->state == LIVE && viewer->position < sent) count += (sent - viewer->position + WIDTH - 1) / WIDTH;
  }
  return count;
}

static void print_problem(void) {
  printf("\"problem\":\"");
  for (char *at = problem; *at; at++) {
    if (*at == '"' || *at == '\\') putchar('\\');
    putchar(*at < ' ' ? ' ' : *at);
  }
  putchar('"');
}

static double cpu_used(void) {
  struct timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / SECOND;
}

#define FIELD(name) printf("\"" #name "\":%llu,", (unsigned long long)counts.name)

static void report(const char *event, uint64_t now) {
  printf("{\"event\":\"%s\",\"operation\":\"%s\",\"seconds\":%.6f,\"cpu\":%.6f,\"viewers\":%d,\"unsubscribed\":%d,"
         "\"off_edge\":%d,\"edge_bytes\":%llu,\"edge_text\":%llu,\"missing\":%llu,\"answered\":%s,",
         event, operation.name, (double)(now - operation.started) / SECOND, cpu_used(), viewer_count, unsubscribed, off_edge,
         (unsigned long long)edge_bytes, (unsigned long long)edge_text, (unsigned long long)missing(),
         publisher_answered() ? "true" : "false");
  FIELD(tokens), FIELD(frames), FIELD(lost), FIELD(duplicated), FIELD(reordered), FIELD(corrupted), FIELD(resets);
  FIELD(ended), FIELD(calls);
  FIELD(refused), FIELD(closed), FIELD(publish_errors), FIELD(published), FIELD(publishes);
  FIELD(measured_tokens), FIELD(measured_frames), FIELD(measured_bytes), FIELD(measured_published);
  FIELD(measured_publishes);
  histogram_print("delay", &delay), putchar(',');
  histogram_print("slip", &slip), putchar(',');
  histogram_print("connected", &connected), putchar(',');
  histogram_print("edge", &edge), putchar(',');
  print_problem();
  puts("}");
  fflush(stdout);
}

static void begin_operation(char *line, uint64_t now) {
  char first[32] = "", second[32] = "", third[32] = "";
  double within = 0;
  if (sscanf(line, "%15s %31s %31s %31s %15s %lf", operation.name, first, second, third, operation.until, &within) < 1) return;
  const char *name = operation.name;
  if (strcmp(name, "connect")) *operation.until = 0;
  operation.started = now;
  operation.waits = false;
  operation.deadline = now;
  histogram_clear(&connected), histogram_clear(&edge);
  edge_bytes = edge_text = 0;
  if (!strcmp(name, "connect")) {
    viewers_add(atoi(first), (uint32_t)atoi(third));
    viewers_connect(atoi(second), now);
    operation.deadline = now + (uint64_t)(within * SECOND);
  } else if (!strcmp(name, "start")) {
    publisher_start(atof(first), (uint32_t)atoi(second), now);
  } else if (!strcmp(name, "wait")) {
    operation.waits = true;
    operation.deadline = now + (uint64_t)(atof(first) * SECOND);
  } else if (!strcmp(name, "measure")) {
    counts.measured_tokens = counts.measured_frames = counts.measured_bytes = 0;
    counts.measured_published = counts.measured_publishes = 0;
    histogram_clear(&delay), histogram_clear(&slip);
    measuring = true;
    operation.waits = true;
    operation.deadline = now + (uint64_t)(atof(first) * SECOND);
    report("begun", now);
  } else if (!strcmp(name, "cut")) {
    viewers_cut(now);
  } else if (!strcmp(name, "address")) {
    snprintf(plan.host, sizeof plan.host, "%s", first);
    plan.port = atoi(second);
  } else if (!strcmp(name, "calls")) {
    operation.deadline = now + (uint64_t)(atof(first) * SECOND);
  } else if (!strcmp(name, "stop")) {
    viewers_stop(atoi(first));
  } else if (!strcmp(name, "resume")) {
    strcpy(operation.until, "edge");
    viewers_connect(atoi(first), now);
    operation.deadline = now + (uint64_t)(atof(second) * SECOND);
  } else if (!strcmp(name, "drain")) {
    publisher_finish(now);
    operation.deadline = now + (uint64_t)(atof(first) * SECOND);
  } else if (!strcmp(name, "quit")) {
    exit(0);
  } else {
    fatal("unknown operation: %s", name);
  }
}

static bool reached(uint64_t now) {
  static uint64_t frames, since;
  if (operation.waits) return false;
  if (!strcmp(operation.name, "drain")) {
    // A contender with its own clock is done when no frames arrive any more.
    if (counts.frames != frames) frames = counts.frames, since = now;
    return plan.begin ? now - since > QUIET && now - operation.started > QUIET : publisher_answered() && !missing();
  }
  if (!strcmp(operation.name, "calls")) return counts.calls >= (uint64_t)plan.stream_count;
  if (!strcmp(operation.name, "connect") || !strcmp(operation.name, "resume")) {
    return !unsubscribed && (strcmp(operation.until, "edge") || off_edge <= 0);
  }
  return true;
}

static void end_operation(uint64_t now) {
  measuring = false;
  report("done", now);
  *operation.name = 0;
}

static void input(uint64_t now) {
  static char *lines;
  static size_t size, room;
  if (room - size < 65536) {
    room = room * 2 + 131072;
    lines = realloc(lines, room);
    if (!lines) fatal("out of memory for the plan");
  }
  ssize_t got = read(0, lines + size, room - size - 1);
  if (got <= 0) exit(got < 0);
  size += (size_t)got;
  char *at = lines;
  for (char *end; (end = memchr(at, '\n', size - (size_t)(at - lines))); at = end + 1) {
    *end = 0;
    if (planned) {
      begin_operation(at, now);
    } else if (read_plan(at)) {
      planned = true;
      if (plan.publisher_port) publisher_open();
      strcpy(operation.name, "plan");
      end_operation(now);
    }
  }
  size -= (size_t)(at - lines);
  memmove(lines, at, size);
}

static void arm(uint64_t time) {
  static uint64_t armed;
  if (time == armed) return;
  armed = time;
  struct itimerspec spec = {.it_value = {(time_t)(time / 1000000000), (long)(time % 1000000000)}};
  timerfd_settime(timer, TFD_TIMER_ABSTIME, &spec, NULL);
}

int main(void) {
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  epoll = epoll_create1(EPOLL_CLOEXEC);
  timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  if (epoll < 0 || timer < 0) fatal("epoll is not available: %s", strerror(errno));
  watch(timer, EPOLLIN, TAG(TAG_TIMER, 0), false);
  watch(0, EPOLLIN, TAG(TAG_INPUT, 0), false);
  static struct epoll_event events[MAX_EVENTS];
  for (uint64_t checked = 0;;) {
    uint64_t now = clock_now();
    publisher_due(now);
    if (*operation.name && (now >= operation.deadline || (!operation.waits && now - checked >= CHECK_INTERVAL))) {
      checked = now;
      if (now >= operation.deadline || reached(now)) end_operation(now);
    }
    uint64_t next = publisher_next();
    if (*operation.name) {
      uint64_t check = operation.waits ? operation.deadline : now + CHECK_INTERVAL;
      if (check < next) next = check;
    }
    arm(next == UINT64_MAX ? 0 : next);
    int count = epoll_wait(epoll, events, MAX_EVENTS, -1);
    if (count < 0 && errno != EINTR) fatal("epoll_wait: %s", strerror(errno));
    for (int index = 0; index < count; index++) {
      uint64_t tag = events[index].data.u64;
      int which = (int)(uint32_t)tag;
      switch (tag >> 32) {
        case TAG_VIEWER: viewer_event(&viewers[which], events[index].events); break;
        case TAG_PUBLISHER: publisher_event(which, events[index].events); break;
        case TAG_PROVIDER: provider_accept(); break;
        case TAG_INPUT: input(clock_now()); break;
        default: {
          uint64_t expired;
          (void)!read(timer, &expired, sizeof expired);
        }
      }
      // A long batch of events must not delay publishes that are due.
      if ((index & 31) == 31) publisher_due(clock_now());
    }
    viewers_pump();
  }
}
