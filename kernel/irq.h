/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_IRQ_H
#define KERNEL_IRQ_H
/*
 * Interrupts only wake a loop: no handler runs. A driver allocates one `struct irq` for a loop,
 * programs its device with the message (MSI-X) or line, and polls its ring from its poller; an
 * interrupt makes board_idle return, nothing else. A level-triggered line is acknowledged by the
 * driver in its poll. Control path; firmware boards implement it, the host's loopback devices call
 * irq_raise. Errors: SR_ENOSPC (no vector left), SR_ENOTSUP.
 */
#include "kernel/compiler.h"

struct irq {
    unsigned vector; /* board's number */
    unsigned loop;
};
int irq_alloc(struct irq *irq, unsigned loop);
/* The message that raises the interrupt when `requester` (a PCI function: bus << 8 | device << 3 |
 * function) writes it; some controllers tell senders apart. */
int irq_msi_message(const struct irq *irq, uint32_t requester, uint64_t *addr, uint32_t *data);
/* Route a wired line (global system interrupt) to the vector. level: level-triggered; low: active
 * low. */
int irq_route_gsi(const struct irq *irq, unsigned gsi, bool level, bool low);
#endif
