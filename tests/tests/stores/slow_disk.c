/* Makes the disk under one folder slow for a process and its children: loaded with LD_PRELOAD, it
 * lets a share of the calls on regular files below the folder wait before it makes them.
 *
 *   SLOW_DISK_FOLDER  absolute path, without links in it
 *   SLOW_DISK_SHARE   of a thousand calls, so many wait; of fsync and rename, ten times as many
 *   SLOW_DISK_MILLIS  the longest wait
 *   SLOW_DISK_SEED    which calls wait, and how long; RANK is mixed into it
 *   SLOW_DISK_LOG     gets a line for each wait: the call, the milliseconds, the path
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static atomic_uint_fast64_t draws;

static uint64_t number(const char *variable) {
    const char *text = getenv(variable);
    return text == NULL ? 0 : strtoull(text, NULL, 10);
}

/* splitmix64 of the draw's number: the n-th call of a rank has the same fate in every run. */
static uint64_t draw(void) {
    uint64_t at = atomic_fetch_add(&draws, 1) + (number("SLOW_DISK_SEED") << 40)
        + (number("RANK") << 32);
    uint64_t mixed = (at + 1) * 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return mixed ^ (mixed >> 31);
}

static void wait_for_disk(const char *call, const char *path, uint64_t times_share) {
    const char *folder = getenv("SLOW_DISK_FOLDER");
    const char *log = getenv("SLOW_DISK_LOG");
    if (folder == NULL || log == NULL || strncmp(path, folder, strlen(folder)) != 0
        || path[strlen(folder)] != '/') {
        return;
    }
    uint64_t drawn = draw();
    if (drawn % 1000 >= number("SLOW_DISK_SHARE") * times_share) {
        return;
    }
    uint64_t millis = (drawn >> 32) % (number("SLOW_DISK_MILLIS") + 1);
    struct timespec wait = {millis / 1000, (millis % 1000) * 1000000};
    nanosleep(&wait, NULL);
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%s %llu %s\n", call, (unsigned long long)millis, path);
    /* System calls, which nothing here stands before. */
    int file = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (file >= 0) {
        syscall(SYS_write, file, line, (size_t)length);
        syscall(SYS_close, file);
    }
}

static void wait_for_file(const char *call, int file, uint64_t times_share) {
    struct stat status;
    if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
        return;
    }
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length > 0) {
        path[length] = 0;
        wait_for_disk(call, path, times_share);
    }
}

ssize_t write(int file, const void *bytes, size_t length) {
    wait_for_file("write", file, 1);
    return REAL(write)(file, bytes, length);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    wait_for_file("write", file, 1);
    return REAL(writev)(file, parts, count);
}

ssize_t pwrite64(int file, const void *bytes, size_t length, off64_t offset) {
    wait_for_file("write", file, 1);
    return REAL(pwrite64)(file, bytes, length, offset);
}

ssize_t read(int file, void *bytes, size_t length) {
    wait_for_file("read", file, 1);
    return REAL(read)(file, bytes, length);
}

ssize_t pread64(int file, void *bytes, size_t length, off64_t offset) {
    wait_for_file("read", file, 1);
    return REAL(pread64)(file, bytes, length, offset);
}

int fsync(int file) {
    wait_for_file("fsync", file, 10);
    return REAL(fsync)(file);
}

int fdatasync(int file) {
    wait_for_file("fsync", file, 10);
    return REAL(fdatasync)(file);
}

int rename(const char *from, const char *to) {
    char path[PATH_MAX];
    if (realpath(from, path) != NULL) {
        wait_for_disk("rename", path, 10);
    }
    return REAL(rename)(from, to);
}

int open64(const char *path, int flags, ...) {
    mode_t mode = 0;
    if ((flags & (O_CREAT | O_TMPFILE)) != 0) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
    }
    int file = REAL(open64)(path, flags, mode);
    if (file >= 0) {
        wait_for_file("open", file, 1);
    }
    return file;
}
