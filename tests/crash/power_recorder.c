/* Records what a process does to the files of one folder, in order, into a log: LD_PRELOAD.
 *
 * FOLDER and LOG come from POWER_FOLDER and POWER_LOG. A record is a header and its bytes:
 * op, file number, offset, length. A write is logged before it is made, a sync after it returned:
 * whatever the instant at which the process is killed, the log never says that something was safe
 * which was not. The log itself needs no sync: it has to outlive the process, not the machine.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, WRITE, TRUNCATE, SYNC, UNLINK, RENAME, FOLDER_SYNC };
enum { MOST_FDS = 4096, MOST_FILES = 1024 };

struct header { uint32_t op, file; uint64_t offset, length; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *folder;
static int log_fd = -1;
static int file_of[MOST_FDS]; /* number of the file + 1; -1: the folder itself */
static char *names[MOST_FILES];
static int known;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void __attribute__((constructor)) begin(void) {
    const char *path = getenv("POWER_LOG");
    folder = getenv("POWER_FOLDER");
    if (path && folder) log_fd = REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void record(uint32_t op, int file, uint64_t offset, const void *data, uint64_t length) {
    struct header head = {op, (uint32_t)file, offset, length};
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)data, data ? length : 0}};
    if (writev(log_fd, parts, 2) != (ssize_t)(sizeof head + (data ? length : 0))) abort();
}

/* The name below the folder, or NULL when the path is elsewhere or a file that is never safe. */
static const char *below(const char *path) {
    size_t size = folder ? strlen(folder) : 0;
    if (log_fd < 0 || !path || strncmp(path, folder, size) || path[size] != '/') return NULL;
    const char *name = path + size + 1;
    size_t length = strlen(name);
    if (length > 4 && (!strcmp(name + length - 4, "-shm") || !strcmp(name + length - 4, "lock")))
        return NULL;
    return name;
}

static int number_of(const char *name) {
    for (int i = 0; i < known; i++)
        if (names[i] && !strcmp(names[i], name)) return i;
    if (known == MOST_FILES) abort();
    names[known] = strdup(name);
    record(OPEN, known, 0, name, strlen(name));
    return known++;
}

static int opened(int fd, const char *path, int flags) {
    if (fd < 0 || fd >= MOST_FDS || log_fd < 0) return fd;
    pthread_mutex_lock(&lock);
    const char *name = below(path);
    file_of[fd] = 0;
    if (name) {
        int number = number_of(name);
        file_of[fd] = number + 1;
        if (flags & O_TRUNC) record(TRUNCATE, number, 0, NULL, 0);
    } else if (path && folder && !strcmp(path, folder)) {
        file_of[fd] = -1;
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPENS(name)                                              \
    int name(const char *path, int flags, ...) {                 \
        va_list rest;                                            \
        va_start(rest, flags);                                   \
        mode_t mode = va_arg(rest, mode_t);                      \
        va_end(rest);                                            \
        return opened(REAL(open)(path, flags, mode), path, flags); \
    }
OPENS(open)
int open64(const char *path, int flags, ...) __attribute__((alias("open")));
int openat(int at, const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    return opened(REAL(openat)(at, path, flags, mode), path, flags);
}
int openat64(int at, const char *path, int flags, ...) __attribute__((alias("openat")));

int close(int fd) {
    if (fd >= 0 && fd < MOST_FDS) file_of[fd] = 0;
    return REAL(close)(fd);
}

static int held(int fd) { return log_fd >= 0 && fd >= 0 && fd < MOST_FDS && file_of[fd] > 0; }

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    if (!held(fd)) return REAL(pwrite)(fd, data, size, offset);
    pthread_mutex_lock(&lock);
    record(WRITE, file_of[fd] - 1, (uint64_t)offset, data, size);
    ssize_t done = REAL(pwrite)(fd, data, size, offset);
    pthread_mutex_unlock(&lock);
    return done;
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset)
    __attribute__((alias("pwrite")));

ssize_t write(int fd, const void *data, size_t size) {
    if (!held(fd)) return REAL(write)(fd, data, size);
    pthread_mutex_lock(&lock);
    off_t at = fcntl(fd, F_GETFL) & O_APPEND ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
    record(WRITE, file_of[fd] - 1, (uint64_t)at, data, size);
    ssize_t done = REAL(write)(fd, data, size);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t size) {
    if (!held(fd)) return REAL(ftruncate)(fd, size);
    pthread_mutex_lock(&lock);
    record(TRUNCATE, file_of[fd] - 1, (uint64_t)size, NULL, 0);
    int done = REAL(ftruncate)(fd, size);
    pthread_mutex_unlock(&lock);
    return done;
}
int ftruncate64(int fd, off64_t size) __attribute__((alias("ftruncate")));

static int synced(int fd, int done) {
    if (log_fd < 0 || fd < 0 || fd >= MOST_FDS || done) return done;
    pthread_mutex_lock(&lock);
    if (file_of[fd] > 0) record(SYNC, file_of[fd] - 1, 0, NULL, 0);
    if (file_of[fd] < 0) record(FOLDER_SYNC, 0, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int fsync(int fd) { return synced(fd, REAL(fsync)(fd)); }
int fdatasync(int fd) { return synced(fd, REAL(fdatasync)(fd)); }

int unlink(const char *path) {
    pthread_mutex_lock(&lock);
    const char *name = below(path);
    if (name) {
        int number = number_of(name);
        record(UNLINK, number, 0, NULL, 0);
        free(names[number]); /* a file of that name made later is another one */
        names[number] = NULL;
    }
    pthread_mutex_unlock(&lock);
    return REAL(unlink)(path);
}

int rename(const char *from, const char *to) {
    pthread_mutex_lock(&lock);
    const char *old = below(from), *new = below(to);
    if (old && new) {
        int number = number_of(old);
        record(RENAME, number, 0, new, strlen(new));
        for (int i = 0; i < known; i++)
            if (names[i] && !strcmp(names[i], new)) { free(names[i]); names[i] = NULL; }
        free(names[number]);
        names[number] = strdup(new);
    }
    pthread_mutex_unlock(&lock);
    return REAL(rename)(from, to);
}
