/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Console lines, and the end of everything.
 *
 * A line is put together in one static buffer (16 KiB stacks have no room for it) and written with
 * one board_console_write. Text may hold what a peer sent: control characters become '?', so that a
 * call is one line. The buffer is guarded by a flag: several loops may log, and never for long.
 *
 * panic() may be called from anywhere, also from an exception in the middle of a log line: it has
 * its own buffer, takes no lock, and a panic inside a panic says one more sentence and leaves.
 */
#include "kernel/board.h"
#include "kernel/log.h"
#include "kernel/trace.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define LINE_MAX_    2048
#define SECOND_NS    1000000000ull
#define RATED_BURST  10u
#define PANIC_TRACES 32u

struct line {
    size_t len;
    char text[LINE_MAX_];
};

static void line_vadd(struct line *l, const char *fmt, va_list ap) PRINTF_LIKE(2, 0);
static void line_vadd(struct line *l, const char *fmt, va_list ap)
{
    size_t room = sizeof(l->text) - l->len;
    int n = vsnprintf(l->text + l->len, room, fmt, ap);
    l->len += n < 0 ? 0 : MIN((size_t)n, room - 1);
}

static void line_add(struct line *l, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void line_add(struct line *l, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    line_vadd(l, fmt, ap);
    va_end(ap);
}

static void line_begin(struct line *l, const char *part)
{
    uint64_t now = board_clock_ns();
    l->len = 0;
    line_add(l, "[%u.%06u] ", (unsigned)(now / SECOND_NS), (unsigned)(now % SECOND_NS / 1000));
    if (part)
        line_add(l, "%s: ", part);
}

static void line_end(struct line *l)
{
    if (l->len >= sizeof(l->text) - 1) {
        l->len = sizeof(l->text) - 1;
        memcpy(l->text + l->len - 3, "...", 3);
    }
    for (size_t i = 0; i < l->len; i++)
        if ((unsigned char)l->text[i] < 0x20 || l->text[i] == 0x7f)
            l->text[i] = '?';
    l->text[l->len++] = '\n'; /* over the terminator */
    board_console_write(l->text, l->len);
}

static struct line shared;
static bool shared_taken;

static void put(const char *part, const char *fmt, va_list ap) PRINTF_LIKE(2, 0);
static void put(const char *part, const char *fmt, va_list ap)
{
    while (__atomic_exchange_n(&shared_taken, true, __ATOMIC_ACQUIRE))
        ;
    line_begin(&shared, part);
    line_vadd(&shared, fmt, ap);
    line_end(&shared);
    __atomic_store_n(&shared_taken, false, __ATOMIC_RELEASE);
}

void log_line(const char *part, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    put(part, fmt, ap);
    va_end(ap);
}

void log_plain(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    put(NULL, fmt, ap);
    va_end(ap);
}

/* What the last window left out is said when the next one begins. */
void log_rated(struct log_site *site, const char *part, const char *fmt, ...)
{
    uint64_t now = board_clock_ns();
    if (!site->count || now - site->window_ns >= SECOND_NS) {
        if (site->suppressed)
            log_line(part, "%u more lines like the next one were left out",
                     (unsigned)site->suppressed);
        *site = (struct log_site){.window_ns = now};
    }
    if (site->count >= RATED_BURST) {
        site->suppressed++;
        return;
    }
    site->count++;
    va_list ap;
    va_start(ap, fmt);
    put(part, fmt, ap);
    va_end(ap);
}

static void say(const char *text)
{
    board_console_write(text, strlen(text));
}

void panic(const char *fmt, ...)
{
    static struct line line;
    static unsigned depth;
    unsigned before = __atomic_fetch_add(&depth, 1, __ATOMIC_RELAXED);
    if (before) {
        if (before == 1)
            say("panic: while panicking\n");
        board_exit(BOARD_EXIT_PANIC);
    }
    board_backtrace();
    va_list ap;
    va_start(ap, fmt);
    line_begin(&line, "panic");
    line_vadd(&line, fmt, ap);
    line_end(&line);
    va_end(ap);
    trace_dump(PANIC_TRACES);
    board_exit(BOARD_EXIT_PANIC);
}

void assert_failed(const char *expr, const char *file, int line)
{
    panic("%s:%d: assertion failed: %s", file, line, expr);
}
