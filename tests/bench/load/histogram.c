// Histogram of delays with a resolution of 1.6 %: 1 us up to 128 us, then 64 buckets per doubling (as HdrHistogram).
#include "load.h"

#include <string.h>

static int bucket_of(uint64_t microseconds) {
  if (microseconds < 128) return (int)microseconds;
  int exponent = 63 - __builtin_clzll(microseconds);
  int bucket = 128 + (exponent - 7) * 64 + (int)((microseconds >> (exponent - 6)) & 63);
  return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static double upper_end(int bucket) {
  if (bucket < 128) return bucket + 1;
  int exponent = (bucket - 128) / 64 + 7;
  return (double)((uint64_t)(64 + (bucket - 128) % 64 + 1) << (exponent - 6));
}

void histogram_add(struct histogram *histogram, uint64_t nanoseconds) {
  histogram->count++;
  if (nanoseconds > histogram->max) histogram->max = nanoseconds;
  histogram->buckets[bucket_of(nanoseconds / 1000)]++;
}

void histogram_clear(struct histogram *histogram) { memset(histogram, 0, sizeof *histogram); }

static double quantile(const struct histogram *histogram, double share) {
  uint64_t wanted = (uint64_t)(share * (double)histogram->count), seen = 0;
  for (int bucket = 0; bucket < BUCKETS; bucket++) {
    seen += histogram->buckets[bucket];
    if (seen > wanted) {
      double end = upper_end(bucket) / 1000, max = (double)histogram->max / 1e6;
      return end < max ? end : max;
    }
  }
  return (double)histogram->max / 1e6;
}

// Print quantiles in milliseconds, as a member of a JSON object.
void histogram_print(const char *name, const struct histogram *histogram) {
  if (!histogram->count) {
    printf("\"%s\":null", name);
    return;
  }
  printf("\"%s\":{\"count\":%llu,\"p50\":%.4g,\"p90\":%.4g,\"p99\":%.4g,\"p999\":%.4g,\"max\":%.4g}", name,
         (unsigned long long)histogram->count, quantile(histogram, 0.5), quantile(histogram, 0.9),
         quantile(histogram, 0.99), quantile(histogram, 0.999), (double)histogram->max / 1e6);
}
