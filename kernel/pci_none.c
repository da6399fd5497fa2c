/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The host form has no buses and no interrupt controller. kernel/pci.c is linked there for its
 * tests, which bring a bus of their own; these stand in for the board below it. Weak: a test or a
 * loopback device model that has the real thing replaces them.
 */
#include "kernel/error.h"
#include "kernel/irq.h"
#include "kernel/pci.h"

__attribute__((weak)) volatile void *mmio_map(uint64_t phys, size_t len)
{
    (void)phys, (void)len;
    return NULL;
}

__attribute__((weak)) volatile void *mmio_map_memory(uint64_t phys, size_t len)
{
    (void)phys, (void)len;
    return NULL;
}

__attribute__((weak)) int irq_alloc(struct irq *irq, unsigned loop)
{
    *irq = (struct irq){.vector = 0, .loop = loop};
    return 0;
}

__attribute__((weak)) int irq_msi_message(const struct irq *irq, uint32_t requester, uint64_t *addr,
                                          uint32_t *data)
{
    (void)requester;
    *addr = 0;
    *data = irq->vector;
    return 0;
}

__attribute__((weak)) int irq_route_gsi(const struct irq *irq, unsigned gsi, bool level, bool low)
{
    (void)irq, (void)gsi, (void)level, (void)low;
    return SR_ENOTSUP;
}
