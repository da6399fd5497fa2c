/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VIRTIO_MMIO_H
#define VIRTIO_MMIO_H
/* Device registers: one access each, of exactly that width, in program order. `off` is checked by
 * the caller. Little-endian, as is every machine we run on. */
#include <stddef.h>
#include <stdint.h>

static inline uint32_t reg_read(const volatile void *base, size_t off, unsigned width)
{
    const volatile uint8_t *p = (const volatile uint8_t *)base + off;
    switch (width) {
    case 1:
        return *p;
    case 2:
        return *(const volatile uint16_t *)p;
    default:
        return *(const volatile uint32_t *)p;
    }
}
static inline void reg_write(volatile void *base, size_t off, unsigned width, uint32_t v)
{
    volatile uint8_t *p = (volatile uint8_t *)base + off;
    switch (width) {
    case 1:
        *p = (uint8_t)v;
        break;
    case 2:
        *(volatile uint16_t *)p = (uint16_t)v;
        break;
    default:
        *(volatile uint32_t *)p = v;
    }
}
/* 64-bit registers are written as two halves, low first (4.1.3.1, 4.2.2). */
static inline void reg_write64(volatile void *base, size_t off, uint64_t v)
{
    reg_write(base, off, 4, (uint32_t)v);
    reg_write(base, off + 4, 4, (uint32_t)(v >> 32));
}
#endif
