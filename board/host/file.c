/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * driver=file and driver=host_device: regular files and block devices of the host, by io_uring.
 *
 * Reads, writes (FUA: RWF_DSYNC), flushes and fallocate are operations of the ring. Opening and
 * asking for holes (SEEK_DATA, SEEK_HOLE) are system calls; the latter the ring does not have, and
 * they only look at what the file system has in memory.
 *
 * Zeroes: with leave to unmap a hole is punched, else the range is zeroed in place; where the file
 * system cannot (tmpfs), a hole is punched and allocated again. Where it can do neither, SR_ENOTSUP,
 * and the dispatch layer writes buffers. Discard is a hole; where there are none, nothing.
 *
 * cache.direct: the alignment of O_DIRECT is found by trying, smallest first, which is right on
 * every file system; a file too short to tell is taken to need 4 KiB.
 *
 * Truncation is a system call, too: the ring of many a kernel has none, and growing writes nothing.
 *
 * Missing on purpose: growing by writing behind the end.
 */
#include "blk/blk.h"
#include "board/host/lock.h"
#include "board/host/uring.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILE_SEGS        16
#define DIRECT_MAX_ALIGN 4096u

struct file {
    int fd;
    bool no_zero_range, no_punch; /* the file system said so */
    bool lost;                    /* a flush failed: see co_file_flush */
    uint64_t data, data_end;      /* known to be data; empty when equal */
};
struct file_options {
    const char *filename;
    int aio, locking;
};
/* All three are served by the ring. */
static const char *const aio_names[] = {"threads", "native", "io_uring", NULL};
static const struct type type_aio = TYPE_ENUM_OF("BlockdevAioOptions", aio_names);
static const char *const locking_names[] = {
    [LOCKING_AUTO] = "auto", [LOCKING_ON] = "on", [LOCKING_OFF] = "off", NULL};
static const struct type type_locking = TYPE_ENUM_OF("OnOffAuto", locking_names);
static const struct field file_fields[] = {
    FIELD_REQ(struct file_options, filename, "filename", &type_str, "Path of the file"),
    FIELD_DEF(struct file_options, aio, "aio", &type_aio, "io_uring",
              "Accepted for compatibility: it is io_uring always"),
    FIELD_DEF(
        struct file_options, locking, "locking", &type_locking, "auto",
        "Keep other writers away, by the locks of QEMU's programs; auto: where there are any"),
    {0},
};
static const struct type type_file =
    TYPE_STRUCT_OF("BlockdevOptionsFile", struct file_options, file_fields);

/* ---- Operations of the ring ------------------------------------------------------------------- */

struct file_op {
    struct uring_op op;
    struct co *co;
    int res;
    bool done;
};

static void file_op_done(struct uring_op *op, int res, uint32_t flags)
{
    struct file_op *f = container_of(op, struct file_op, op);
    (void)flags;
    f->res = res;
    f->done = true;
    co_wake(f->co);
}

static void file_op_init(struct file_op *f)
{
    *f = (struct file_op){.op.done = file_op_done, .co = co_self()};
}

/* Waits for what was prepared; the kernel's result. */
static int co_file_op(struct file_op *f)
{
    while (!f->done)
        co_yield ();
    return f->res;
}

static unsigned to_iovec(struct iov v, struct iovec *out)
{
    unsigned n = 0;
    void *p;
    size_t len;
    while (n < FILE_SEGS && iov_next(&v, &p, &len))
        out[n++] = (struct iovec){p, len};
    return n;
}

static int co_rw(struct file *f, bool write, uint64_t off, struct iov v, int rw_flags)
{
    struct file_op op;
    struct iovec vec[FILE_SEGS];
    unsigned n = to_iovec(v, vec);
    file_op_init(&op);
    struct io_uring_sqe *sqe = uring_sqe(&op.op);
    if (write)
        io_uring_prep_writev2(sqe, f->fd, vec, n, off, rw_flags);
    else if (n == 1)
        io_uring_prep_read(sqe, f->fd, vec[0].iov_base, (unsigned)vec[0].iov_len, off);
    else
        io_uring_prep_readv2(sqe, f->fd, vec, n, off, rw_flags);
    return co_file_op(&op);
}

/* Short transfers go on where they stopped; reading behind the end (the file was truncated, or its
 * size is no multiple of the alignment) gives zeroes. */
static int co_rw_all(struct node *n, bool write, uint64_t off, struct iov v, int rw_flags)
{
    while (v.len) {
        int res = co_rw(n->state, write, off, v, rw_flags);
        if (res == -EINTR || res == -EAGAIN)
            continue;
        if (res < 0)
            return sr_from_linux(-res);
        if (res == 0 && write)
            return SR_ENOSPC;
        if (res == 0) {
            iov_fill(v, 0, 0, v.len);
            return 0;
        }
        off += (unsigned)res;
        v = iov_slice(v, (size_t)res, v.len - (size_t)res);
    }
    return 0;
}

/* When a flush fails, Linux forgets what it could not write, and the next flush succeeds. Whoever
 * believed that would take data for stable that are gone; so after one failure none succeeds. A
 * stable write is told what others could not write, too, and then no flush is any more; but that there
 * is no room for it is its own. */
static void lost(struct node *n)
{
    struct file *f = n->state;
    f->lost |= !n->cache_direct;
}

static int co_file_preadv(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    (void)flags;
    if (fault(FAULT_READ))
        return SR_EIO;
    return co_rw_all(n, false, off, v, 0);
}

static int co_file_pwritev(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    if (fault(FAULT_WRITE))
        return SR_EIO;
    int rc = co_rw_all(n, true, off, v, flags & BLK_FUA ? RWF_DSYNC : 0);
    if (unlikely(rc && rc != SR_ENOSPC && flags & BLK_FUA))
        lost(n);
    return rc;
}

static int co_file_flush(struct node *n)
{
    struct file *f = n->state;
    struct file_op op;
    if (fault(FAULT_FLUSH) || f->lost)
        return SR_EIO;
    file_op_init(&op);
    io_uring_prep_fsync(uring_sqe(&op.op), f->fd, IORING_FSYNC_DATASYNC);
    int res = co_file_op(&op);
    if (unlikely(res < 0))
        lost(n);
    return res < 0 ? sr_from_linux(-res) : 0;
}

/* ---- Zeroes and holes ------------------------------------------------------------------------- */

/* Only zeroing, discarding and truncation make holes, and they forget what is known. */
static void forget_data(struct file *f)
{
    f->data = f->data_end = 0;
}

static int co_fallocate(struct file *f, int mode, uint64_t off, uint64_t len)
{
    struct file_op op;
    int res;
    do {
        forget_data(f);
        file_op_init(&op);
        io_uring_prep_fallocate(uring_sqe(&op.op), f->fd, mode, (off_t)off, (off_t)len);
        res = co_file_op(&op);
    } while (res == -EINTR);
    forget_data(f); /* it may have been asked for in between */
    if (res >= 0)
        return 0;
    return res == -EOPNOTSUPP || res == -ENODEV || res == -ENOSYS ? SR_ENOTSUP
                                                                  : sr_from_linux(-res);
}

static int co_punch(struct file *f, uint64_t off, uint64_t len)
{
    int rc = f->no_punch ? SR_ENOTSUP
                         : co_fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len);
    f->no_punch |= rc == SR_ENOTSUP;
    return rc;
}

static int co_file_pwrite_zeroes(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct file *f = n->state;
    int rc = SR_ENOTSUP;
    if (fault(FAULT_WRITE))
        return SR_EIO;
    if (flags & BLK_MAY_UNMAP) {
        rc = co_punch(f, off, len);
        if (rc != SR_ENOTSUP)
            return rc;
    }
    if (!f->no_zero_range)
        rc = co_fallocate(f, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, off, len);
    if (rc != SR_ENOTSUP)
        return rc;
    f->no_zero_range = true;
    rc = co_punch(f, off, len);
    return rc ? rc : co_fallocate(f, FALLOC_FL_KEEP_SIZE, off, len);
}

static int co_file_pdiscard(struct node *n, uint64_t off, uint64_t len)
{
    return fault(FAULT_WRITE) ? SR_EIO : co_punch(n->state, off, len);
}

static int co_file_truncate(struct node *n, uint64_t size)
{
    struct file *f = n->state;
    int res;
    if (fault(FAULT_WRITE))
        return SR_EIO;
    forget_data(f);
    do
        res = ftruncate(f->fd, (off_t)size);
    while (res && errno == EINTR);
    if (!res)
        return 0;
    return errno == EFBIG ? SR_ENOSPC : sr_from_linux(errno);
}

/* Some file systems look at every page up to the next hole: what was found is remembered. A hole at
 * `off`: SEEK_DATA finds something behind it, or ENXIO: nothing to the end. */
static int co_file_status(struct node *n, uint64_t off, uint64_t len, struct blk_status *st)
{
    struct file *f = n->state;
    st->flags = BLK_DATA | BLK_OFFSET_VALID;
    st->map = off;
    st->len = len;
    if (off >= f->data && off < f->data_end) {
        st->len = f->data_end - off;
        return 0;
    }
    off_t data = lseek(f->fd, (off_t)off, SEEK_DATA);
    if (data < 0 && errno == ENXIO)
        data = (off_t)n->size;
    if (data < 0)
        return 0; /* no such knowledge here: data */
    if ((uint64_t)data > off) {
        st->flags = BLK_ZERO | BLK_OFFSET_VALID;
        st->len = MAX((uint64_t)data, off + 1) - off;
        return 0;
    }
    off_t hole = lseek(f->fd, (off_t)off, SEEK_HOLE);
    if (hole > 0 && (uint64_t)hole > off) {
        st->len = (uint64_t)hole - off;
        f->data = off;
        f->data_end = (uint64_t)hole;
    }
    return 0;
}

/* ---- Opening ---------------------------------------------------------------------------------- */

static int could_not_open(const char *name, int e, struct error *err)
{
    return error_set(err, sr_from_linux(e), "Could not open '%s': %s", name, strerror(e));
}

static int open_file(struct node *n, const char *name, struct error *err)
{
    struct file *f = n->state;
    int flags = O_CLOEXEC | (n->cache_direct ? O_DIRECT : 0);
    f->fd = open(name, flags | (n->read_only ? O_RDONLY : O_RDWR));
    if (f->fd < 0 && n->auto_read_only && (errno == EACCES || errno == EROFS || errno == EPERM)) {
        f->fd = open(name, flags | O_RDONLY);
        n->read_only = true;
    }
    if (f->fd >= 0)
        return 0;
    if (errno == EINVAL && n->cache_direct)
        return error_set(err, SR_EINVAL,
                         "Could not open '%s': filesystem does not support O_DIRECT", name);
    return could_not_open(name, errno, err);
}

static int check_kind(const struct node *n, const struct stat *st, const char *name,
                      struct error *err)
{
    if (!strcmp(n->drv->name, "file")) {
        if (!S_ISREG(st->st_mode))
            return error_set(err, SR_EINVAL,
                             "Could not open '%s': "
                             "A regular file was expected by the 'file' driver, but something "
                             "else was given",
                             name);
    } else if (!S_ISBLK(st->st_mode)) {
        return error_set(err, SR_EINVAL,
                         "Could not open '%s': "
                         "host_device driver requires '%s' to be a block device",
                         name, name);
    }
    return 0;
}

static int find_size(struct node *n, const struct stat *st)
{
    struct file *f = n->state;
    n->size = (uint64_t)st->st_size;
    return S_ISBLK(st->st_mode) && ioctl(f->fd, BLKGETSIZE64, &n->size) ? errno : 0;
}

static bool can_read(int fd, char *at, size_t len)
{
    return pread(fd, at, len, 0) >= 0;
}

/* The smallest length, then the smallest address, that a direct read takes. */
static int probe_direct(struct node *n)
{
    struct file *f = n->state;
    char *buf;
    uint32_t len = 512, at = 512;
    if (posix_memalign((void **)&buf, 2 * DIRECT_MAX_ALIGN, 3 * DIRECT_MAX_ALIGN))
        return ENOMEM;
    while (len < DIRECT_MAX_ALIGN && !can_read(f->fd, buf, len))
        len *= 2;
    while (at < DIRECT_MAX_ALIGN && !can_read(f->fd, buf + at, len))
        at *= 2;
    free(buf);
    n->limits.request_alignment = len;
    n->limits.mem_align = at;
    return 0;
}

static int examine(struct node *n, const char *name, struct error *err)
{
    struct file *f = n->state;
    struct stat st;
    int e = fstat(f->fd, &st) ? errno : 0;
    if (!e) {
        int rc = check_kind(n, &st, name, err);
        if (rc)
            return rc;
        e = find_size(n, &st);
    }
    if (!e && n->cache_direct)
        e = probe_direct(n);
    return e ? could_not_open(name, e, err) : 0;
}

static int co_file_open(struct node *n, const void *opts, struct error *err)
{
    const struct file_options *o = opts;
    struct file *f = n->state;
    int rc = open_file(n, o->filename, err);
    if (rc)
        return rc;
    rc = image_lock(f->fd, !n->read_only, n->force_share, (enum locking)o->locking, o->filename,
                    err);
    if (!rc)
        rc = examine(n, o->filename, err);
    if (rc) {
        close(f->fd);
        return rc;
    }
    if (strlen(o->filename) < sizeof(n->filename)) /* else unknown: a part would be another file */
        strcpy(n->filename, o->filename);
    n->limits.max_sg = FILE_SEGS;
    n->write_flags = BLK_FUA;
    n->zero_flags = BLK_MAY_UNMAP | BLK_NO_FALLBACK;
    return 0;
}

static void co_file_close(struct node *n)
{
    struct file *f = n->state;
    close(f->fd);
}

static const struct blk_driver blk_file = {
    .name = "file",
    .options = &type_file,
    .state_size = sizeof(struct file),
    .protocol = true,
    .co_open = co_file_open,
    .co_close = co_file_close,
    .co_preadv = co_file_preadv,
    .co_pwritev = co_file_pwritev,
    .co_pwrite_zeroes = co_file_pwrite_zeroes,
    .co_pdiscard = co_file_pdiscard,
    .co_truncate = co_file_truncate,
    .co_flush = co_file_flush,
    .co_block_status = co_file_status,
};
REGISTER(blk_driver, blk_file);

static const struct blk_driver blk_host_device = {
    .name = "host_device",
    .options = &type_file,
    .state_size = sizeof(struct file),
    .protocol = true,
    .co_open = co_file_open,
    .co_close = co_file_close,
    .co_preadv = co_file_preadv,
    .co_pwritev = co_file_pwritev,
    .co_pwrite_zeroes = co_file_pwrite_zeroes,
    .co_pdiscard = co_file_pdiscard,
    .co_flush = co_file_flush,
};
REGISTER(blk_driver, blk_host_device);

/* ---- Plain names in image headers ------------------------------------------------------------- */

/* A relative name is relative to the directory of the image that holds it. NULL with err. */
static char *full_path(const char *name, const char *relative_to, struct error *err)
{
    char *path;
    if (name[0] != '/' && !relative_to[0]) {
        error_set(err, SR_EINVAL, "Could not open '%s': relative to a file of unknown path", name);
        return NULL;
    }
    const char *slash = name[0] == '/' ? NULL : strrchr(relative_to, '/');
    int dir = slash ? (int)(slash + 1 - relative_to) : 0;
    if (asprintf(&path, "%.*s%s", dir, relative_to, name) >= 0)
        return path;
    error_set(err, SR_ENOMEM, "%s", sr_strerror(SR_ENOMEM));
    return NULL;
}

static struct value *definition(const char *path)
{
    struct value *def = value_dict(), *driver = value_str("file"), *name = value_str(path);
    if (!def || !driver || !name) {
        value_free(driver);
        value_free(name);
    } else if (value_dict_set(def, "driver", driver)) {
        value_free(name);
    } else if (!value_dict_set(def, "filename", name)) {
        return def;
    }
    value_free(def);
    return NULL;
}

static struct value *resolve_path(const char *name, const char *relative_to, struct error *err)
{
    char *path = full_path(name, relative_to, err);
    if (!path)
        return NULL;
    struct value *def = definition(path);
    free(path);
    if (!def)
        error_set(err, SR_ENOMEM, "%s", sr_strerror(SR_ENOMEM));
    return def;
}
static const struct volume_provider volume_path = {.scheme = "", .resolve = resolve_path};
REGISTER(volume_provider, volume_path);
