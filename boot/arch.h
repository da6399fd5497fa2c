/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOOT_ARCH_H
#define BOOT_ARCH_H
/*
 * What the portable code asks of a processor. Every architecture's arch.h supplies exactly this;
 * firmware and host form share it (the host form switches coroutines with the same instructions).
 *
 *   ARCH_NAME           "x86_64"
 *   ARCH_LINEAR_BASE    firmware: all RAM and device memory is mapped at physical + this
 *   arch_switch         leave this stack and continue on another
 *   arch_stack_init     prepare a fresh stack for the first arch_switch to it
 *   arch_sp             the stack pointer of the caller (for head-room checks)
 *   arch_cycles         a cheap cycle counter, for traces; monotonic on one core
 *   arch_cpu_relax      the hint for a spinning loop
 *
 * arch_switch saves what the calling convention lets a callee keep, and nothing else: the control
 * words of the floating-point unit are the same everywhere. The saved state lives on the stack that
 * is left; *save_sp is the only handle. arch_stack_init wants a 16-byte aligned top; `entry` must
 * never return. Any context but an interrupt; none of these can fail.
 */
#include <stddef.h>
#include <stdint.h>

void arch_switch(void **save_sp, void *load_sp);
void *arch_stack_init(void *stack_top, void (*entry)(void *), void *arg);

#if defined(__x86_64__)
#include "boot/x86_64/arch.h"
#elif defined(__aarch64__)
#include "boot/aarch64/arch.h"
#else
#error "no such architecture"
#endif
#endif
