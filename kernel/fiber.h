/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_FIBER_H
#define KERNEL_FIBER_H
/*
 * Tells the sanitizers that we change stacks; for kernel/co.c only. Without a sanitizer all of it
 * vanishes.
 *
 *     fiber_switch(from, to)      just before the switch
 *     fiber_back(me)              just after it, in the context that resumed another
 *     fiber_arrived(me, from)     just after it, in the context that was resumed by `from`, whose
 *                                 stack may be the loop's: it is learnt here
 */
#include "kernel/compiler.h"

#if defined(__SANITIZE_THREAD__)
#define FIBER_TSAN 1
#elif defined(SR_SANITIZED)
#define FIBER_ASAN 1
#endif

#if defined(FIBER_ASAN)
#include <sanitizer/common_interface_defs.h>
struct fiber {
    void *fake;
    const void *low;
    size_t size;
};
static inline void fiber_init(struct fiber *f, const void *low, size_t size)
{
    f->low = low;
    f->size = size;
}
static inline void fiber_switch(struct fiber *from, struct fiber *to)
{
    __sanitizer_start_switch_fiber(&from->fake, to->low, to->size);
}
static inline void fiber_back(struct fiber *me)
{
    __sanitizer_finish_switch_fiber(me->fake, NULL, NULL);
}
static inline void fiber_arrived(struct fiber *me, struct fiber *from)
{
    __sanitizer_finish_switch_fiber(me->fake, &from->low, &from->size);
}

#elif defined(FIBER_TSAN)
#include <sanitizer/tsan_interface.h>
struct fiber {
    void *tsan; /* NULL: a thread's own; asked for when it is left */
};
static inline void fiber_init(struct fiber *f, const void *low, size_t size)
{
    (void)low, (void)size;
    f->tsan = __tsan_create_fiber(0);
}
static inline void fiber_switch(struct fiber *from, struct fiber *to)
{
    from->tsan = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to->tsan, 0);
}
static inline void fiber_back(struct fiber *me)
{
    (void)me;
}
static inline void fiber_arrived(struct fiber *me, struct fiber *from)
{
    (void)me, (void)from;
}

#else
struct fiber {
    char none[0];
};
static inline void fiber_init(struct fiber *f, const void *low, size_t size)
{
    (void)f, (void)low, (void)size;
}
static inline void fiber_switch(struct fiber *from, struct fiber *to)
{
    (void)from, (void)to;
}
static inline void fiber_back(struct fiber *me)
{
    (void)me;
}
static inline void fiber_arrived(struct fiber *me, struct fiber *from)
{
    (void)me, (void)from;
}
#endif
#endif
