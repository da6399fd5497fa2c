/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The first and only process of a sibling in the boot tests: takes orders from the serial line, a
 * line each, and answers each with one line, "ok ..." or "bad ...".
 *
 *     size DEV | cache DEV [through|back] | verify DEV SEED MIB | trim DEV
 *     load DEV THREADS     verified random I/O until:   stop
 *     write DEV SEED KIB | check DEV SEED KIB           the beginning of the disk
 *     mount DEV DIR | files DIR COUNT | umount DIR      (ext4)
 *     run PROGRAM WORDS...                              its status
 *     reboot | off
 *
 * All I/O is O_DIRECT; each 4 KiB block says its number, the seed and a sequence number.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
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
