/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Locks on image files, those of QEMU's programs: two writers of one image are stopped before the second
 * has written anything, whoever they are.
 *
 *     byte 100 + i   locked by who does i      i: 0 consistent read, 1 write, 2 write unchanged, 3 resize
 *     byte 200 + i   locked by who does not let others do i
 *
 * All locks are shared ones (so that a reader can hold them) and only say something: first ours are
 * taken, then it is looked whether somebody else holds one that contradicts. They belong to the open
 * file (OFD locks), and end with it, also when the process is killed.
 *
 * Source: QEMU block/file-posix.c (bytes), include/block/block-common.h (permissions).
 */
#include "board/host/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

enum { CONSISTENT_READ, WRITE, WRITE_UNCHANGED, RESIZE, PERMISSIONS };
#define BIT(i)      (1u << (i))
#define DOES_AT     100
#define FORBIDS_AT  200
#define READER_DOES BIT(CONSISTENT_READ)
#define WRITER_DOES (BIT(CONSISTENT_READ) | BIT(WRITE) | BIT(RESIZE))
#define FORBIDDEN   (BIT(WRITE) | BIT(RESIZE))

static const char *const names[PERMISSIONS] = {"consistent read", "write", "write unchanged",
                                               "resize"};

static struct flock byte(int at, short type)
{
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
}

/* An errno. */
static int take(int fd, int base, unsigned what)
{
    for (int i = 0; i < PERMISSIONS; i++) {
        struct flock l = byte(base + i, F_RDLCK);
        if ((what & BIT(i)) && fcntl(fd, F_OFD_SETLK, &l))
            return errno;
    }
    return 0;
}

/* The first of `what` that somebody else holds; PERMISSIONS: none. */
static int held(int fd, int base, unsigned what)
{
    int i = 0;
    for (; i < PERMISSIONS; i++) {
        struct flock l = byte(base + i, F_WRLCK);
        if ((what & BIT(i)) && !fcntl(fd, F_OFD_GETLK, &l) && l.l_type != F_UNLCK)
            break;
    }
    return i;
}

static int refuse(const char *shared, int what, const char *name, struct error *err)
{
    return error_set(err, SR_EBUSY,
                     "Failed to get %s\"%s\" lock: is another process using the image [%s]?",
                     shared, names[what], name);
}

int image_lock(int fd, bool writable, bool share, enum locking how, const char *name,
               struct error *err)
{
    unsigned does = writable ? WRITER_DOES : READER_DOES, forbids = share ? 0 : FORBIDDEN;
    if (how == LOCKING_OFF)
        return 0;
    int e = take(fd, DOES_AT, does);
    if (!e)
        e = take(fd, FORBIDS_AT, forbids);
    if (e && how == LOCKING_AUTO && e != EAGAIN && e != EACCES)
        return 0; /* the file system has none */
    if (e)
        return error_set(err, SR_EBUSY, "Failed to lock '%s': %s", name, strerror(e));
    int what = held(fd, FORBIDS_AT, does);
    if (what < PERMISSIONS)
        return refuse("", what, name, err);
    what = held(fd, DOES_AT, forbids);
    return what < PERMISSIONS ? refuse("shared ", what, name, err) : 0;
}
