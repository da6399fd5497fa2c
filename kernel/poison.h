/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_POISON_H
#define KERNEL_POISON_H
/*
 * Memory that nobody owns is poisoned under ASan, so that a use after it was put back is found.
 * Nothing in other builds.
 */
#include "kernel/compiler.h"

#if defined(SR_SANITIZED) && !defined(__SANITIZE_THREAD__)
#include <sanitizer/asan_interface.h>
static inline void poison(void *p, size_t len)
{
    __asan_poison_memory_region(p, len);
}
static inline void unpoison(void *p, size_t len)
{
    __asan_unpoison_memory_region(p, len);
}
#else
static inline void poison(void *p, size_t len)
{
    (void)p, (void)len;
}
static inline void unpoison(void *p, size_t len)
{
    (void)p, (void)len;
}
#endif
#endif
