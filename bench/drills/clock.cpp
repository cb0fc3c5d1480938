// Preloaded into a process: its wall clock is off by what a file says, which may change while it runs.
//
// Monotonic clocks, and so timeouts, are those of the machine, as when an administrator sets the time. Every reader of
// the C library's wall clock is covered, and waits on semaphores and mutexes that end at a moment of it. What asks the
// kernel itself is not, nor are condition variables, which may go by either clock: gRPC's go by the monotonic one.
//
// libfaketime 0.9.10 cannot do it: with monotonic clocks left alone, Python's time.sleep fails under it (EINVAL).

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>

namespace {

// Seconds, as a 64-bit integer in a file of 8 bytes.
const volatile long long* mapped() {
  static const volatile long long none = 0;
  static const volatile long long* const found = [] {
    const char* path = std::getenv("DRILL_CLOCK");
    const int file = path == nullptr ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    void* at = file < 0 ? MAP_FAILED : mmap(nullptr, sizeof(long long), PROT_READ, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    return at == MAP_FAILED ? &none : static_cast<const volatile long long*>(at);
  }();
  return found;
}

template <typename Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

// A moment of the clock as this process sees it, told in the machine's time.
timespec real(const timespec* seen) { return {seen->tv_sec - static_cast<time_t>(*mapped()), seen->tv_nsec}; }

}  // namespace

extern "C" {

int clock_gettime(clockid_t clock, timespec* at) noexcept {
  static const auto own = next<int (*)(clockid_t, timespec*)>("clock_gettime");
  const int result = own(clock, at);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += *mapped();
  return result;
}

int gettimeofday(timeval* at, void* zone) noexcept {
  static const auto own = next<int (*)(timeval*, void*)>("gettimeofday");
  const int result = own(at, zone);
  if (result == 0) at->tv_sec += *mapped();
  return result;
}

time_t time(time_t* at) noexcept {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at != nullptr) *at = now.tv_sec;
  return now.tv_sec;
}

int sem_timedwait(sem_t* semaphore, const timespec* until) {
  static const auto own = next<int (*)(sem_t*, const timespec*)>("sem_timedwait");
  const timespec moment = real(until);
  return own(semaphore, &moment);
}

int pthread_mutex_timedlock(pthread_mutex_t* mutex, const timespec* until) noexcept {
  static const auto own = next<int (*)(pthread_mutex_t*, const timespec*)>("pthread_mutex_timedlock");
  const timespec moment = real(until);
  return own(mutex, &moment);
}

}  // extern "C"
