/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOOT_TRAP_H
#define BOOT_TRAP_H
/*
 * What the architectures' exception reports share. On the exception's own stack, where nothing may be
 * trusted: no allocation, no lock, no formatting of the C library; straight to the console. Never fails.
 */
#include "kernel/compiler.h"

void trap_say(const char *s);
void trap_say_hex(const char *name, uint64_t v); /* the name, then 0x and 16 digits */

/* boot/backtrace.c: where it starts: the stack and the link register (0: none) of the exception
 * being reported; else the caller's. */
extern const uint64_t *trap_stack;
extern uint64_t trap_link;
/* boot/ARCH: is `a` in our code, just behind a call? [irq] */
bool arch_return_address(uint64_t a);
#endif
