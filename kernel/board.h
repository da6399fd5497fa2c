/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_BOARD_H
#define KERNEL_BOARD_H
/*
 * The board contract: everything that the rooms above need from the machine below, and all that a
 * new board (firmware or host) has to supply. Implemented in board/NAME and boot/ARCH; exactly one
 * board is linked. Times are nanoseconds of a monotonic clock that starts near 0 at reset.
 * Functions marked [irq] may also run from an exception.
 */
#include "kernel/compiler.h"

/* Console bytes, unbuffered, no translation but LF -> CR LF on a UART. [irq] */
void board_console_write(const char *text, size_t len);
/* Nanoseconds since start, monotonic, cheap (a TSC read and a multiply). [irq] */
uint64_t board_clock_ns(void);
/* Sleep until `deadline_ns` (UINT64_MAX: no deadline), an interrupt, or board_wake(). The caller
 * has armed all its sources and rechecked them; returning early is always allowed. Firmware:
 * program the one-shot timer, `sti; hlt` or `wfi`. Host: submit and wait on the io_uring. Runs on the loop
 * that sleeps. */
void board_idle(uint64_t deadline_ns);
/* Called once per loop turn, before pollers, on the host to submit queued ring entries in one
 * system call; empty on firmware. */
void board_turn(void);
/* Make the sleeping loop `loop` return from board_idle. Any loop. */
void board_wake(unsigned loop);

enum board_exit { BOARD_EXIT_CLEAN = 0, BOARD_EXIT_CONFIG = 1, BOARD_EXIT_PANIC = 2 };
/* Power off with the contract's status (0, 3, 5 as seen by whoever started us). Never returns.
 * [irq] */
NORETURN void board_exit(enum board_exit how);

/* Fill with unpredictable bytes (rdrand, then virtio-rng when probed, host getrandom). Returns
 * false when only a timer-seeded generator was there. */
bool board_entropy(void *buf, size_t len);

/* Identity, for the first console line and query-version. */
const char *board_name(void); /* "q35", "microvm", "virt", "host" */
const char *board_arch(void); /* "x86_64", "aarch64" */
unsigned board_cores(void);
uint64_t board_ram_bytes(void); /* all RAM given to us */

/* Page memory. The page allocator (kernel/page.h) takes its memory from here once at start; the
 * ranges are in the linear map, page-aligned, writable, non-executable. */
struct mem_range {
    void *base;
    size_t len;
};
unsigned board_memory(struct mem_range *ranges, unsigned max);
/* Unmap (guard) or map back one page of page-allocator memory. [firmware: splits large pages; host:
 * mprotect] */
void board_guard_page(void *page, bool guard);

/* Prints the calling chain through board_console_write, with names. [irq] */
void board_backtrace(void);
/* Find buses and offer each device to the registered drivers (pci.h), in order of address. Runs once, in the
 * main coroutine; the console lines of disks and nets come from here. */
void co_board_probe(void);
/* Entropy from elsewhere (virtio-rng) into the generator behind board_entropy. */
void board_entropy_add(const void *bytes, size_t len);
/* The loader's nth module (initrd): false when there is none. Stays valid for ever. */
bool board_module(unsigned n, const void **data, size_t *len);
/* Power button: absent, or pressed since the last question. */
bool board_has_power_button(void);
bool board_power_button(void);

#endif
