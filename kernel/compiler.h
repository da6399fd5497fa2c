/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_COMPILER_H
#define KERNEL_COMPILER_H
/*
 * Small things that C lacks: attributes, container_of, checked arithmetic, alignment. No state, any
 * context.
 *
 * Sizes that came from a peer are compared in the subtraction form, range_ok(off, len, size), never
 * off + len > size.
 */
#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Builds under a sanitizer are the checked builds: bigger stacks, fault points that can be armed.
 * */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SR_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SR_SANITIZED 1
#endif
#endif
#if defined(SR_SANITIZED) && !defined(SR_CHECKED)
#define SR_CHECKED 1
#endif
#if defined(SR_SANITIZED) && !defined(SR_FAULTS)
#define SR_FAULTS 1
#endif

#define PRINTF_LIKE(fmt, args)     __attribute__((format(printf, fmt, args)))
#define NORETURN                   __attribute__((noreturn))
#define MUST_CHECK                 __attribute__((warn_unused_result))
#define likely(x)                  __builtin_expect(!!(x), 1)
#define unlikely(x)                __builtin_expect(!!(x), 0)
#define CACHE_LINE                 64

#define ARRAY_LEN(a)               (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, m) ((type *)(void *)((char *)(ptr)-offsetof(type, m)))
#define MIN(a, b)                  ((a) < (b) ? (a) : (b))
#define MAX(a, b)                  ((a) > (b) ? (a) : (b))

/* True when [off, off + len) lies inside [0, size). Cannot overflow. */
static inline bool range_ok(uint64_t off, uint64_t len, uint64_t size)
{
    return off <= size && len <= size - off;
}
static inline bool add_overflow64(uint64_t a, uint64_t b, uint64_t *out)
{
    return __builtin_add_overflow(a, b, out);
}
static inline bool mul_overflow64(uint64_t a, uint64_t b, uint64_t *out)
{
    return __builtin_mul_overflow(a, b, out);
}
/* `align` is a power of two. */
static inline uint64_t align_down(uint64_t v, uint64_t align)
{
    return v & ~(align - 1);
}
static inline uint64_t align_up(uint64_t v, uint64_t align)
{
    return (v + align - 1) & ~(align - 1);
}
static inline bool is_aligned(uint64_t v, uint64_t align)
{
    return (v & (align - 1)) == 0;
}
static inline bool is_pow2(uint64_t v)
{
    return v && !(v & (v - 1));
}
static inline unsigned log2_floor(uint64_t v)
{
    return 63u - (unsigned)__builtin_clzll(v);
}
#endif
