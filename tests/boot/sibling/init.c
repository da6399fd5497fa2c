/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The first and only process of a sibling in the boot tests: takes orders from the serial line, a
 * line each, and answers each with one line, "ok ..." or "bad ...".
 *
 *     size DEV | cache DEV [through|back] | verify DEV SEED MIB | trim DEV
 *     load DEV THREADS     verified random I/O until:   stop
 *     write DEV SEED KIB | check DEV SEED KIB           the beginning of the disk
 *     bench DEV read|write BYTES DEPTH COUNT PIECES
 *                          COUNT random requests of so many pieces of memory: "ok SECONDS"
 *     mount DEV DIR | files DIR COUNT | umount DIR      (ext4)
 *     run PROGRAM WORDS...                              its status
 *     reboot | off
 *
 * All I/O is O_DIRECT; each 4 KiB block says its number, the seed and a sequence number.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define BLOCK       4096u
#define CHUNK       (64u * 1024)
#define MAX_WORKERS 8

static FILE *line;

static void say(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vfprintf(line, fmt, ap);
    va_end(ap);
    fputc('\n', line);
    fflush(line);
}

static int open_dev(const char *name, int flags)
{
    char path[64];
    snprintf(path, sizeof(path), "/dev/%s", name);
    return open(path, flags | O_DIRECT);
}

static void fill(void *p, uint64_t block, uint32_t seed, uint32_t seq)
{
    uint64_t *w = p;
    for (unsigned i = 0; i < BLOCK / 8; i++)
        w[i] = (block << 32 | seed) ^ (uint64_t)seq * 0x9e3779b97f4a7c15u ^ i;
}

static int same(const void *p, uint64_t block, uint32_t seed, uint32_t seq)
{
    uint64_t want[BLOCK / 8];
    fill(want, block, seed, seq);
    return !memcmp(p, want, BLOCK);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- One after the other ---- */

static int run_through(const char *dev, uint32_t seed, uint64_t bytes, int writing)
{
    uint8_t *buf = aligned_alloc(BLOCK, CHUNK);
    int fd = open_dev(dev, writing ? O_RDWR : O_RDONLY), bad = fd < 0;
    for (uint64_t at = 0; !bad && at < bytes; at += CHUNK) {
        if (writing)
            for (unsigned i = 0; i < CHUNK / BLOCK; i++)
                fill(buf + i * BLOCK, at / BLOCK + i, seed, 0);
        ssize_t n = writing ? pwrite(fd, buf, CHUNK, (off_t)at) : pread(fd, buf, CHUNK, (off_t)at);
        bad = n != CHUNK;
        for (unsigned i = 0; !bad && !writing && i < CHUNK / BLOCK; i++)
            bad = !same(buf + i * BLOCK, at / BLOCK + i, seed, 0);
    }
    if (!bad && writing)
        bad = fsync(fd) != 0;
    if (fd >= 0)
        close(fd);
    free(buf);
    return bad;
}

static int all_zero(int fd, uint64_t at, uint64_t len)
{
    uint8_t *buf = aligned_alloc(BLOCK, CHUNK);
    int bad = 0;
    for (uint64_t end = at + len; !bad && at < end; at += CHUNK) {
        bad = pread(fd, buf, CHUNK, (off_t)at) != CHUNK;
        for (unsigned i = 0; !bad && i < CHUNK; i++)
            bad = buf[i] != 0;
    }
    free(buf);
    return !bad;
}

static void trim(const char *dev)
{
    uint64_t zero[2] = {1 << 20, 2 << 20}, gone[2] = {4 << 20, 1 << 20};
    int fd = open_dev(dev, O_RDWR);
    int z = ioctl(fd, BLKZEROOUT, zero), d = ioctl(fd, BLKDISCARD, gone);
    if (z || d || !all_zero(fd, zero[0], zero[1]))
        say("bad trim: zeroes %d, discard %d, %s", z, d, strerror(errno));
    else
        say("ok trim");
    close(fd);
}

/* ---- Load ---- */

static struct worker {
    pthread_t thread;
    char dev[16];
    unsigned index, count;
    unsigned long done, bad;
    double longest;
} workers[MAX_WORKERS];
static volatile int stopping;
static unsigned nworkers;

#define AREA 256u /* blocks of each worker */
static void *work(void *arg)
{
    struct worker *w = arg;
    static uint32_t seq[MAX_WORKERS][AREA];
    uint8_t *buf = aligned_alloc(BLOCK, BLOCK);
    unsigned state = 17 + w->index;
    int fd = open_dev(w->dev, O_RDWR);
    while (!stopping) {
        unsigned k = (state = state * 1103515245 + 12345) >> 8;
        uint64_t block = 2048 + (uint64_t)(k % AREA) * w->count * 5 + w->index;
        uint32_t *s = &seq[w->index][k % AREA];
        double from = now();
        if (k >> 16 & 1 || !*s) {
            fill(buf, block, w->index, *s + 1);
            w->bad += pwrite(fd, buf, BLOCK, (off_t)(block * BLOCK)) != BLOCK;
            ++*s;
        } else {
            w->bad += pread(fd, buf, BLOCK, (off_t)(block * BLOCK)) != BLOCK ||
                      !same(buf, block, w->index, *s);
        }
        if (!(++w->done % 64))
            w->bad += fdatasync(fd) != 0;
        if (now() - from > w->longest)
            w->longest = now() - from;
    }
    for (unsigned k = 0; k < AREA; k++) { /* all that was written is there */
        uint64_t block = 2048 + (uint64_t)k * w->count * 5 + w->index;
        if (seq[w->index][k] && (pread(fd, buf, BLOCK, (off_t)(block * BLOCK)) != BLOCK ||
                                 !same(buf, block, w->index, seq[w->index][k])))
            w->bad++;
    }
    memset(seq[w->index], 0, sizeof(seq[0]));
    close(fd);
    free(buf);
    return NULL;
}

static void load(const char *dev, unsigned n)
{
    stopping = 0;
    nworkers = n < MAX_WORKERS ? n : MAX_WORKERS;
    for (unsigned i = 0; i < nworkers; i++) {
        workers[i] = (struct worker){.index = i, .count = nworkers};
        snprintf(workers[i].dev, sizeof(workers[i].dev), "%s", dev);
        pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    }
    say("ok load");
}

static void stop(void)
{
    unsigned long done = 0, bad = 0;
    double longest = 0;
    stopping = 1;
    for (unsigned i = 0; i < nworkers; i++) {
        pthread_join(workers[i].thread, NULL);
        done += workers[i].done;
        bad += workers[i].bad;
        longest = workers[i].longest > longest ? workers[i].longest : longest;
    }
    say("%s done %lu wrong %lu longest %.0f ms", bad ? "bad" : "ok", done, bad, longest * 1000);
}

/* ---- Measuring ---- */

#define MAX_DEPTH 128
static struct {
    int fd, writing;
    size_t bytes;
    unsigned pieces;
    uint64_t size, state;
    struct iocb io[MAX_DEPTH];
    struct iovec vec[MAX_DEPTH][256];
} bench;

/* One piece: memory that is contiguous for the device, too (a huge page). Several: each in a page of its
 * own, in no order. */
static void lay_out(struct iovec *v, uint8_t *buf)
{
    size_t piece = bench.bytes / bench.pieces;
    for (unsigned i = 0; i < bench.pieces; i++) {
        size_t page = bench.pieces > 1 ? 2 * (i * 7 % bench.pieces) : 0;
        v[i] = (struct iovec){buf + page * piece, piece};
    }
}

static void aim(struct iocb *io, unsigned slot)
{
    uint64_t s = bench.state;
    s ^= s << 13;
    s ^= s >> 7;
    s ^= s << 17;
    bench.state = s;
    *io = (struct iocb){.aio_data = slot,
                        .aio_fildes = (uint32_t)bench.fd,
                        .aio_lio_opcode = bench.writing ? IOCB_CMD_PWRITEV : IOCB_CMD_PREADV,
                        .aio_buf = (uint64_t)(uintptr_t)bench.vec[slot],
                        .aio_nbytes = bench.pieces,
                        .aio_offset = (int64_t)(s % (bench.size / bench.bytes) * bench.bytes)};
}

/* `depth` on their way; what has ended is replaced, all at once. */
static int go_on(aio_context_t ctx, unsigned depth, unsigned long count)
{
    struct iocb *list[MAX_DEPTH];
    struct io_event done[MAX_DEPTH];
    unsigned long sent = 0, ended = 0;
    unsigned fresh = depth, slot[MAX_DEPTH];
    for (unsigned i = 0; i < depth; i++)
        slot[i] = i;
    while (ended < count) {
        unsigned n = 0;
        for (; n < fresh && sent < count; n++, sent++) {
            aim(&bench.io[slot[n]], slot[n]);
            list[n] = &bench.io[slot[n]];
        }
        if (n && syscall(SYS_io_submit, ctx, (long)n, list) != (long)n)
            return 1;
        long got = syscall(SYS_io_getevents, ctx, 1L, (long)depth, done, NULL);
        for (long i = 0; i < got; i++) {
            if (done[i].res != (int64_t)bench.bytes)
                return 1;
            slot[i] = (unsigned)done[i].data;
        }
        fresh = (unsigned)got;
        ended += (unsigned long)got;
    }
    return 0;
}

static void run_bench(char **word)
{
    unsigned depth = (unsigned)atoi(word[4]);
    aio_context_t ctx = 0;
    bench.writing = word[2][0] == 'w';
    bench.bytes = strtoull(word[3], 0, 0);
    bench.pieces = (unsigned)atoi(word[6]);
    bench.state = 88172645463325252ull;
    bench.fd = open_dev(word[1], O_RDWR);
    ioctl(bench.fd, BLKGETSIZE64, &bench.size);
    size_t room = bench.bytes * (bench.pieces > 1 ? 2 : 1);
    size_t all = (depth * room + (2u << 20) - 1) & ~((size_t)(2u << 20) - 1);
    uint8_t *buf = aligned_alloc(2u << 20, all);
    madvise(buf, all, bench.pieces > 1 ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
    memset(buf, 1, all);
    for (unsigned i = 0; i < depth; i++)
        lay_out(bench.vec[i], buf + i * room);
    int bad = depth > MAX_DEPTH || syscall(SYS_io_setup, (long)depth, &ctx);
    double from = now();
    bad = bad || go_on(ctx, depth, strtoul(word[5], 0, 0));
    say("%s %.6f", bad ? "bad" : "ok", now() - from);
    syscall(SYS_io_destroy, ctx);
    close(bench.fd);
    free(buf);
}

/* ---- Files and the rest ---- */

static void files(const char *dir, unsigned count)
{
    char path[128], text[3000];
    memset(text, 'x', sizeof(text));
    unsigned bad = 0;
    for (unsigned i = 0; i < count; i++) {
        snprintf(path, sizeof(path), "%s/%u", dir, i);
        int fd = open(path, O_CREAT | O_RDWR, 0600);
        bad += fd < 0 || write(fd, text, 1 + i * 37 % sizeof(text)) < 0;
        close(fd);
        if (i % 3 == 0)
            bad += unlink(path) != 0;
    }
    sync();
    say("%s files", bad ? "bad" : "ok");
}

static void run(char **words)
{
    int status;
    pid_t p = fork();
    if (!p) {
        int null = open("/dev/null", O_RDWR);
        dup2(null, 0);
        dup2(null, 1);
        dup2(null, 2);
        execv(words[0], words);
        _exit(127);
    }
    waitpid(p, &status, 0);
    say("%s status %d", status ? "bad" : "ok", WEXITSTATUS(status));
}

static void cache(const char *dev, const char *mode)
{
    char path[96], text[32] = "";
    snprintf(path, sizeof(path), "/sys/block/%s/cache_type", dev);
    int fd = open(path, O_RDWR);
    if (*mode) {
        snprintf(text, sizeof(text), "write %s", mode);
        if (write(fd, text, strlen(text)) < 0)
            say("bad %s", strerror(errno));
    }
    ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
    text[n > 0 ? n - 1 : 0] = 0;
    close(fd);
    say("ok %s", text);
}

static void size(const char *dev)
{
    uint64_t bytes = 0;
    int block = 0, ro = 0, fd = open_dev(dev, O_RDONLY);
    ioctl(fd, BLKGETSIZE64, &bytes);
    ioctl(fd, BLKSSZGET, &block);
    ioctl(fd, BLKROGET, &ro);
    close(fd);
    say("%s size %llu block %d ro %d", bytes ? "ok" : "bad", (unsigned long long)bytes, block, ro);
}

static void end(int how)
{
    sync();
    say("ok");
    reboot(how);
}

static void command(unsigned n, char **w)
{
    const char *c = w[0], *a = n > 1 ? w[1] : "", *b = n > 2 ? w[2] : "", *d = n > 3 ? w[3] : "";
    uint32_t seed = (uint32_t)atoi(b);
    if (!strcmp(c, "size"))
        size(a);
    else if (!strcmp(c, "cache"))
        cache(a, b);
    else if (!strcmp(c, "verify"))
        say("%s", run_through(a, seed, strtoull(d, 0, 0) << 20, 1) ||
                          run_through(a, seed, strtoull(d, 0, 0) << 20, 0)
                      ? "bad"
                      : "ok");
    else if (!strcmp(c, "write") || !strcmp(c, "check"))
        say("%s", run_through(a, seed, strtoull(d, 0, 0) << 10, c[0] == 'w') ? "bad" : "ok");
    else if (!strcmp(c, "trim"))
        trim(a);
    else if (!strcmp(c, "load"))
        load(a, seed);
    else if (!strcmp(c, "stop"))
        stop();
    else if (!strcmp(c, "bench") && n == 7)
        run_bench(w);
    else if (!strcmp(c, "mount")) {
        char path[64];
        snprintf(path, sizeof(path), "/dev/%s", a);
        mkdir(b, 0700);
        say("%s", mount(path, b, "ext4", 0, NULL) ? strerror(errno) : "ok");
    } else if (!strcmp(c, "umount"))
        say("%s", umount(a) ? "bad" : "ok");
    else if (!strcmp(c, "files"))
        files(a, seed);
    else if (!strcmp(c, "run"))
        run(w + 1);
    else if (!strcmp(c, "reboot"))
        end(RB_AUTOBOOT);
    else if (!strcmp(c, "off"))
        end(RB_POWER_OFF);
    else
        say("bad command %s", c);
}

static void load_modules(void)
{
    char name[128];
    FILE *f = fopen("/mod/order", "r");
    while (f && fscanf(f, "%127s", name) == 1) {
        int fd = open(name, O_RDONLY);
        if (syscall(SYS_finit_module, fd, "", 0))
            fprintf(stderr, "%s: %s\n", name, strerror(errno));
        close(fd);
    }
}

static void open_line(void)
{
    struct termios t;
    int fd = open("/dev/ttyS1", O_RDWR);
    tcgetattr(fd, &t);
    cfmakeraw(&t);
    tcsetattr(fd, TCSANOW, &t);
    line = fdopen(fd, "r+");
}

int main(void)
{
    char text[512];
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    load_modules();
    open_line();
    say("ok here");
    while (fgets(text, sizeof(text), line)) {
        char *words[16] = {0};
        unsigned n = 0;
        for (char *t = strtok(text, " \n"); t && n < 15; t = strtok(NULL, " \n"))
            words[n++] = t;
        if (n)
            command(n, words);
    }
    end(RB_POWER_OFF);
}
