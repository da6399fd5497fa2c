/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What lwIP asks of the compiler and of the platform; included by every file of lwIP.
 *
 * The platform supplies these, in both the firmware and the host form:
 *   sys_now()            milliseconds of a monotonic clock (declared by lwip/sys.h)
 *   net_random()         32 random bits: ports, sequence numbers, DHCP transaction ids
 *   net_assert_failed()  an assertion of lwIP failed; does not return
 *   net_chksum()         Internet checksum (RFC 1071), not complemented, as it lies in memory
 *   net_mem_get() ...    memory for packet headers: the card can reach it
 */
#ifndef STRONGROOM_NET_ARCH_CC_H
#define STRONGROOM_NET_ARCH_CC_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Without it lwip/arch.h would define an ssize_t of its own. */
#ifndef SSIZE_MAX
#define SSIZE_MAX __LONG_MAX__
#endif

#ifndef BYTE_ORDER
#define LITTLE_ENDIAN __ORDER_LITTLE_ENDIAN__
#define BIG_ENDIAN    __ORDER_BIG_ENDIAN__
#define BYTE_ORDER    __BYTE_ORDER__
#endif

_Noreturn void net_assert_failed(const char *message, const char *file, int line);
uint32_t net_random(void);
uint16_t net_chksum(const void *data, int len);
void *net_mem_get(size_t n);
void *net_mem_get_zeroed(size_t count, size_t n);
void net_mem_put(void *p);

#define LWIP_PLATFORM_ASSERT(message) net_assert_failed(message, __FILE__, __LINE__)

/* No debug output is compiled in; lwIP still wants the macro. */
#define LWIP_PLATFORM_DIAG(args) \
    do {                         \
    } while (0)

#define LWIP_RAND()                           net_random()

/* One instruction each, instead of a call of lwIP's own. */
#define LWIP_DONT_PROVIDE_BYTEORDER_FUNCTIONS 1
#define lwip_htons(x)                         __builtin_bswap16(x)
#define lwip_ntohs(x)                         __builtin_bswap16(x)
#define lwip_htonl(x)                         __builtin_bswap32(x)
#define lwip_ntohl(x)                         __builtin_bswap32(x)

#define PACK_STRUCT_STRUCT                    __attribute__((packed))

#endif
