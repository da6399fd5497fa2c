/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What newlib asks of the system below, on firmware: a heap, a console, an end, and one `struct
 * _reent` per loop. There are no files, no processes and no signals.
 *
 * The heap is one run of pages, taken by heap_init, or at the first malloc with HEAP_DEFAULT bytes.
 * It serves the control path only; when it is full, malloc returns NULL and the command fails.
 *
 * newlib calls the plain names in some of its configurations and those with an underscore in
 * others: both exist.
 */
#include "kernel/board.h"
#include "kernel/log.h"
#include "kernel/loop.h"
#include "kernel/page.h"

#include <errno.h>
#include <reent.h>
#include <sys/stat.h>

#define HEAP_DEFAULT (2u << 20)
#define ALIAS(name)  __attribute__((alias(#name)))

static char *heap, *heap_next, *heap_end;

void heap_init(size_t bytes)
{
    ASSERT(!heap);
    heap = heap_next = page_alloc(bytes);
    if (!heap)
        panic("no memory for a heap of %zu KiB", bytes >> 10);
    heap_end = heap + align_up(bytes, PAGE_SIZE);
}

void *_sbrk(ptrdiff_t n)
{
    if (!heap && page_total_bytes())
        heap_init(HEAP_DEFAULT);
    if (n > heap_end - heap_next || n < heap - heap_next) {
        errno = ENOMEM;
        return (void *)-1;
    }
    heap_next += n;
    return heap_next - n;
}

int _write(int fd, const void *p, size_t n)
{
    (void)fd;
    board_console_write(p, n);
    return (int)n;
}

int _read(int fd, void *p, size_t n)
{
    (void)fd, (void)p, (void)n;
    return 0;
}

int _close(int fd)
{
    (void)fd;
    return 0;
}

int _fstat(int fd, struct stat *st)
{
    (void)fd;
    *st = (struct stat){.st_mode = S_IFCHR};
    return 0;
}

int _isatty(int fd)
{
    (void)fd;
    return 1;
}

off_t _lseek(int fd, off_t off, int whence)
{
    (void)fd, (void)off, (void)whence;
    errno = ESPIPE;
    return -1;
}

int _kill(int pid, int sig)
{
    (void)pid;
    panic("signal %d", sig);
}

int _getpid(void)
{
    return 1;
}

void *sbrk(ptrdiff_t n) ALIAS(_sbrk);
int write(int fd, const void *p, size_t n) ALIAS(_write);
int read(int fd, void *p, size_t n) ALIAS(_read);
int close(int fd) ALIAS(_close);
int fstat(int fd, struct stat *st) ALIAS(_fstat);
int isatty(int fd) ALIAS(_isatty);
off_t lseek(int fd, off_t off, int whence) ALIAS(_lseek);
int kill(int pid, int sig) ALIAS(_kill);
int getpid(void) ALIAS(_getpid);

NORETURN void _exit(int status)
{
    panic("exit(%d)", status);
}

NORETURN void abort(void)
{
    panic("abort");
}

void _init(void)
{
}

void _fini(void)
{
}

struct _reent *__getreent(void)
{
    static struct _reent reents[MAX_LOOPS];
    static bool made[MAX_LOOPS];
    unsigned i = loop_id();
    if (unlikely(!made[i])) {
        made[i] = true;
        _REENT_INIT_PTR(&reents[i]);
    }
    return &reents[i];
}
