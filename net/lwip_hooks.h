/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Hooks that lwIP calls (LWIP_HOOK_FILENAME in lwipopts.h). They make 64 KiB super-segments safe:
 * the first keeps a peer's stray MSS option away from lwIP, the second tells the driver the MSS on
 * the wire of the frame that follows.
 */
#ifndef STRONGROOM_NET_LWIP_HOOKS_H
#define STRONGROOM_NET_LWIP_HOOKS_H

#include "lwip/arch.h"
#include "lwip/err.h"

struct pbuf;
struct tcp_hdr;
struct tcp_pcb;

/* A segment for PCB has come in. Anything but ERR_OK drops it. */
err_t net_hook_tcp_in(struct tcp_pcb *pcb, struct tcp_hdr *hdr, u16_t optlen, u16_t opt1len,
                      u8_t *opt2, struct pbuf *p);

/* A segment is about to go out; pcb may be NULL, or a listener. Returns OPTS, moved or not. */
u32_t *net_hook_tcp_out(struct pbuf *p, struct tcp_hdr *hdr, const struct tcp_pcb *pcb,
                        u32_t *opts);

#endif
