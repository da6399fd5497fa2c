/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_ENDIAN_H
#define KERNEL_ENDIAN_H
/*
 * Integers as they lie on a disk, a wire or a ring: one-member structs, so that the compiler
 * refuses a forgotten swap. They have alignment 1 and the natural size: a layout written with them
 * is packed by itself, and may be read at any address. Aligned accesses compile to one instruction.
 * Any context.
 *
 *     struct h { be32 magic; be64 size; };   static_assert(sizeof(struct h) == 12, "");
 *     uint64_t s = be64_get(h->size);        be32_set(&h->magic, 0x514649fb);
 */
#include <stdint.h>
#include <string.h>

#define ENDIAN_TYPE(name, uint, swap)              \
    typedef struct {                               \
        uint8_t b[sizeof(uint)];                   \
    } name;                                        \
    static inline uint name##_get(name v)          \
    {                                              \
        uint r;                                    \
        memcpy(&r, v.b, sizeof(r));                \
        return swap(r);                            \
    }                                              \
    static inline void name##_set(name *p, uint v) \
    {                                              \
        v = swap(v);                               \
        memcpy(p->b, &v, sizeof(v));               \
    }
#define ENDIAN_SAME(x) (x)
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
ENDIAN_TYPE(le16, uint16_t, ENDIAN_SAME)
ENDIAN_TYPE(le32, uint32_t, ENDIAN_SAME)
ENDIAN_TYPE(le64, uint64_t, ENDIAN_SAME)
ENDIAN_TYPE(be16, uint16_t, __builtin_bswap16)
ENDIAN_TYPE(be32, uint32_t, __builtin_bswap32)
ENDIAN_TYPE(be64, uint64_t, __builtin_bswap64)
#else
#error "big-endian hosts are not supported yet"
#endif
#endif
