/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the bridge does in the file system: sockets at paths, and memory files.
 *
 * A memory file is the sibling's RAM and the storage VM's BAR2 at once. It is made when missing,
 * padded up to a power of two (QEMU aborts when a BAR is anything else), and from then on never
 * shrunk and never unlinked: whoever has it mapped would die of it.
 */
#include "bridge.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define MEMORY_MIN 4096u

static uint64_t power_of_two(uint64_t v)
{
    uint64_t p = MEMORY_MIN;
    while (p < v)
        p <<= 1;
    return p;
}

int memory_open(const struct sibling_config *s)
{
    struct stat st;
    int fd = open(s->memory, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (fd < 0 || fstat(fd, &st) < 0)
        die("memory of %s: %s: %s", s->name, s->memory, strerror(errno));
    if (!S_ISREG(st.st_mode))
        die("memory of %s: %s is no regular file", s->name, s->memory);
    uint64_t have = (uint64_t)st.st_size, want = power_of_two(have > s->size ? have : s->size);
    if (want != have && ftruncate(fd, (off_t)want) < 0)
        die("memory of %s: %s: %s", s->name, s->memory, strerror(errno));
    return fd;
}

static struct sockaddr_un address(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strncpy(a.sun_path, path, sizeof(a.sun_path) - 1); /* options_read checked the length */
    return a;
}

void path_must_be_free(const char *path)
{
    struct sockaddr_un a = address(path);
    struct stat st;
    if (lstat(path, &st) < 0 && errno == ENOENT)
        return;
    if (!S_ISSOCK(st.st_mode))
        die("%s is there and no socket", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 || errno == EAGAIN))
        die("%s is in use by another process", path);
    close(fd);
}

int listen_at(const char *path)
{
    struct sockaddr_un a = address(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    unlink(path); /* of an earlier bridge; see path_must_be_free */
    if (bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, 4) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}
