/* What a bad disk and a wrong wall clock look like to one process: loaded before libc by LD_PRELOAD.
   The runner writes the faults into a file that is mapped here; all zero is a sound host. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct faults {
    int32_t slow_ms;    /* each write and sync takes so much longer */
    int32_t sync_fails; /* fsync and fdatasync: EIO */
    int32_t no_room;    /* writes: half of it, then ENOSPC */
    int32_t torn;       /* the next write: half of it, and the process is dead */
    int64_t clock_s;    /* the wall clock is so much ahead */
};

static const struct faults sound;
static volatile const struct faults *faults = &sound;

static int (*next_fsync)(int);
static int (*next_fdatasync)(int);
static ssize_t (*next_write)(int, const void *, size_t);
static ssize_t (*next_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*next_pwritev)(int, const struct iovec *, int, off_t, int);
static int (*next_fallocate)(int, off_t, off_t);
static int (*next_clock)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    next_fsync = dlsym(RTLD_NEXT, "fsync");
    next_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    next_write = dlsym(RTLD_NEXT, "write");
    next_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    next_pwritev = dlsym(RTLD_NEXT, "pwritev64v2");
    next_fallocate = dlsym(RTLD_NEXT, "posix_fallocate64");
    next_clock = dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("KOUROU_CHAOS_FAULTS");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *page = mmap(NULL, sizeof(struct faults), PROT_READ, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED) faults = page;
    close(fd);
}

static void wait_a_little(void) {
    int32_t ms = faults->slow_ms;
    struct timespec left = {ms / 1000, (ms % 1000) * 1000000L};
    if (ms > 0) while (nanosleep(&left, &left) && errno == EINTR) {}
}

static int sync_of(int (*next)(int), int fd) {
    wait_a_little();
    if (faults->sync_fails) return errno = EIO, -1;
    return next(fd);
}

int fsync(int fd) { return sync_of(next_fsync, fd); }
int fdatasync(int fd) { return sync_of(next_fdatasync, fd); }

static ssize_t pwrite_of(int fd, const void *data, size_t size, off_t at) {
    wait_a_little();
    if (faults->torn && size >= 64) {
        next_pwrite(fd, data, size / 2, at);
        kill(getpid(), SIGKILL);
    }
    if (faults->no_room) return errno = ENOSPC, -1;
    return next_pwrite(fd, data, size, at);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite_of(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) { return pwrite_of(fd, data, size, at); }

static ssize_t pwritev_of(int fd, const struct iovec *parts, int count, off_t at, int flags) {
    wait_a_little();
    if (!faults->torn && !faults->no_room) return next_pwritev(fd, parts, count, at, flags);
    size_t size = 0, used = 0;
    for (int i = 0; i < count; i++) size += parts[i].iov_len;
    if (size < 64) return next_pwritev(fd, parts, count, at, flags);
    char *half = malloc(size);
    for (int i = 0; i < count; used += parts[i++].iov_len) memcpy(half + used, parts[i].iov_base, parts[i].iov_len);
    ssize_t written = next_pwrite(fd, half, size / 2, at);
    free(half);
    if (faults->torn) kill(getpid(), SIGKILL);
    return written;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return pwritev_of(fd, parts, count, at, 0); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) { return pwritev_of(fd, parts, count, at, 0); }
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t at, int flags) {
    return pwritev_of(fd, parts, count, at, flags); /* what Python's os.pwritev calls */
}
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off_t at, int flags) {
    return pwritev_of(fd, parts, count, at, flags);
}

ssize_t write(int fd, const void *data, size_t size) {
    if (fd > 2 && (faults->slow_ms || faults->no_room)) { /* not its own log lines */
        struct stat facts;
        if (!fstat(fd, &facts) && S_ISREG(facts.st_mode)) {
            wait_a_little();
            if (faults->no_room) return errno = ENOSPC, -1;
        }
    }
    return next_write(fd, data, size);
}

static int fallocate_of(int fd, off_t at, off_t size) { return faults->no_room ? ENOSPC : next_fallocate(fd, at, size); }
int posix_fallocate(int fd, off_t at, off_t size) { return fallocate_of(fd, at, size); }
int posix_fallocate64(int fd, off_t at, off_t size) { return fallocate_of(fd, at, size); }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = next_clock(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += faults->clock_s;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec fine;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &fine)) return -1;
    now->tv_sec = fine.tv_sec;
    now->tv_usec = fine.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *also) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    if (also) *also = now.tv_sec;
    return now.tv_sec;
}
