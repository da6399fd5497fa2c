/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The host board: one Linux process is the machine. Memory is one anonymous mapping of
 * STRONGROOM_MEM bytes (256 MiB unless said; K, M and G are understood), of which the kernel gives
 * real pages when they are first touched. The console is stderr, guard pages are mprotect, the
 * clock is CLOCK_MONOTONIC. Sleeping, waking and signals are uring.c's.
 */
#include "kernel/board.h"
#include "kernel/log.h"
#include "kernel/page.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_MEM (256ull << 20)
#define MIN_MEM     (8ull << 20)

void board_console_write(const char *text, size_t len)
{
    while (len) {
        ssize_t n = write(STDERR_FILENO, text, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        text += n;
        len -= (size_t)n;
    }
}

/* ---- clock ---- */

static uint64_t monotonic_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t start_ns;
__attribute__((constructor)) static void clock_start(void)
{
    start_ns = monotonic_ns();
}

uint64_t board_clock_ns(void)
{
    return monotonic_ns() - start_ns;
}

/* ---- end ---- */

/* The contract's numbers. A panic leaves everything as it is; the other two run what exit() runs.
 * */
void board_exit(enum board_exit how)
{
    if (how == BOARD_EXIT_PANIC)
        _exit(5);
    exit(how == BOARD_EXIT_CONFIG ? 3 : 0);
}

/* ---- identity ---- */

bool board_entropy(void *buf, size_t len)
{
    char *p = buf;
    while (len) {
        ssize_t n = getrandom(p, len, 0);
        if (n < 0 && errno != EINTR)
            panic("getrandom failed");
        p += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
    return true;
}

const char *board_name(void)
{
    return "host";
}

const char *board_arch(void)
{
#if defined(__x86_64__)
    return "x86_64";
#elif defined(__aarch64__)
    return "aarch64";
#else
#error "unknown machine"
#endif
}

/* One thread runs, whatever the machine has. */
unsigned board_cores(void)
{
    return 1;
}

/* ---- what a process has not ---- */

void board_entropy_add(const void *bytes, size_t len)
{
    (void)bytes, (void)len;
}

void co_board_probe(void)
{
}

bool board_module(unsigned n, const void **data, size_t *len)
{
    (void)n, (void)data, (void)len;
    return false;
}

bool board_has_power_button(void)
{
    return false;
}

bool board_power_button(void)
{
    return false;
}

void heap_init(size_t bytes)
{
    (void)bytes;
}

/* ---- memory ---- */

static uint64_t parse_size(const char *text)
{
    char *end;
    uint64_t v = strtoull(text, &end, 10);
    unsigned shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    return v > UINT64_MAX >> shift ? 0 : v << shift;
}

uint64_t board_ram_bytes(void)
{
    static uint64_t bytes;
    if (!bytes) {
        const char *text = getenv("STRONGROOM_MEM");
        bytes = align_down(text ? parse_size(text) : DEFAULT_MEM, PAGE_SIZE);
        bytes = MAX(bytes, MIN_MEM);
    }
    return bytes;
}

unsigned board_memory(struct mem_range *ranges, unsigned max)
{
    size_t len = board_ram_bytes();
    void *p =
        mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || !max)
        panic("cannot map %zu bytes of memory", len);
    ranges[0] = (struct mem_range){.base = p, .len = len};
    return 1;
}

void board_guard_page(void *page, bool guard)
{
    if (mprotect(page, PAGE_SIZE, guard ? PROT_NONE : PROT_READ | PROT_WRITE))
        panic("cannot protect page %p", page);
}
