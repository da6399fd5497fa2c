/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_LOG_H
#define KERNEL_LOG_H
/*
 * The console: one line per call, "[seconds.micro] part: text", written at once (never from the
 * data path). A line that a peer can cause goes through log_limited: at most `burst` lines per
 * second and site, then one line that counts what was left out. panic() prints the sentence, a
 * backtrace with names, the trace ring's tail, and leaves with the contract's status 5. ASSERT is
 * for our own mistakes only: foreign bytes must never reach one. Any context.
 */
#include "kernel/compiler.h"

void log_line(const char *part, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Without a part: "[s.u] text", for `ready: ...`, `error: ...`, `off: clean`. */
void log_plain(const char *fmt, ...) PRINTF_LIKE(1, 2);

struct log_site {
    uint64_t window_ns; /* start of the running second */
    uint32_t count, suppressed;
};
void log_rated(struct log_site *site, const char *part, const char *fmt, ...) PRINTF_LIKE(3, 4);
#define log_limited(part, ...)                    \
    do {                                          \
        static struct log_site log_site_;         \
        log_rated(&log_site_, part, __VA_ARGS__); \
    } while (0)

NORETURN void panic(const char *fmt, ...) PRINTF_LIKE(1, 2);
NORETURN void assert_failed(const char *expr, const char *file, int line);
#define ASSERT(e) (likely(e) ? (void)0 : assert_failed(#e, __FILE__, __LINE__))
#endif
