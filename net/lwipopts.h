/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * lwIP, configured: no threads, raw API, IPv4 and IPv6, everything from static pools.
 *
 * Two facts shape the numbers. We hand TCP super-segments of up to 64 KiB, so windows and send
 * buffers are at least four of those, and congestion arithmetic needs 32 bits (LWIP_WND_SCALE).
 * Payload is never copied: it lives in our own buffers, as custom pbufs on the way in and as
 * referencing pbufs on the way out, so lwIP's pools hold only headers and book-keeping, and the sum
 * of them stays below 700 KiB on a machine of 12 MiB.
 */
#ifndef STRONGROOM_NET_LWIPOPTS_H
#define STRONGROOM_NET_LWIPOPTS_H

/* --- One thread, no sockets ------------------------------------------------------------------ */

#define NO_SYS                     1
#define SYS_LIGHTWEIGHT_PROT       0
#define LWIP_NETCONN               0
#define LWIP_SOCKET                0
#define LWIP_TIMERS                1
#define LWIP_TIMEVAL_PRIVATE       0
#define LWIP_STATS                 0
#define LWIP_CALLBACK_API          1
#define LWIP_SINGLE_NETIF          0
#define LWIP_NUM_NETIF_CLIENT_DATA 1

/* --- Memory: our pools (net/lwip_port.c) behind mem_malloc, static tables for the rest ----------- */

/* Packet headers are read by the card, so they lie in pool memory; see net_mem_get. */
#define MEM_LIBC_MALLOC            1
#define mem_clib_malloc            net_mem_get
#define mem_clib_calloc            net_mem_get_zeroed
#define mem_clib_free              net_mem_put
#define MEMP_MEM_MALLOC            0
#define MEM_ALIGNMENT              8
#define MEM_SIZE                   (128 * 1024) /* only looked at by lwIP's own sanity checks */
#define MEMP_NUM_PBUF              1536
#define PBUF_POOL_SIZE             1 /* nothing of ours uses it */
#define PBUF_POOL_BUFSIZE          256
#define PBUF_POOL_FREE_OOSEQ       0
#define LWIP_SUPPORT_CUSTOM_PBUF   1

#define MEMP_NUM_TCP_PCB           136 /* 100 connections, some in TIME_WAIT, some half open */
#define MEMP_NUM_TCP_PCB_LISTEN    16
#define MEMP_NUM_TCP_SEG           1024
#define MEMP_NUM_UDP_PCB           6
#define MEMP_NUM_RAW_PCB           1
#define MEMP_NUM_SYS_TIMEOUT       (LWIP_NUM_SYS_TIMEOUT_INTERNAL + 2)

/* --- TCP ------------------------------------------------------------------------------------- */

#define LWIP_TCP                   1
#define TCP_MSS                    8960 /* the largest MSS on the wire (jumbo), not that of a super-segment */
#define TCP_CALCULATE_EFF_SEND_MSS 1
#define LWIP_WND_SCALE             1
#define TCP_RCV_SCALE              6
#define TCP_WND \
    (384 * 1024) /* see lwip_tcp.c: room for a piece of 256 KiB while another is on its way */
#define TCP_WND_UPDATE_THRESHOLD       (4 * 1460)
#define TCP_SND_BUF                    (512 * 1024)
#define TCP_SND_QUEUELEN               1024
#define TCP_SNDLOWAT                   (32 * 1024)
#define TCP_OVERSIZE                   0 /* else payload is copied behind a header */
#define TCP_QUEUE_OOSEQ                1
#define TCP_OOSEQ_MAX_PBUFS            64 /* they pin receive buffers; see also net_hook_tcp_in */
#define LWIP_TCP_SACK_OUT              1
#define LWIP_TCP_TIMESTAMPS            0
#define LWIP_TCP_KEEPALIVE             1
#define TCP_LISTEN_BACKLOG             1
/* Ticks of 100 ms (lwIP's "slow" is twice this): the least retransmission time-out is 3 of them. With
 * lwIP's own 500 ms each lost tail costs 1.5 s. */
#define TCP_TMR_INTERVAL               50
#define LWIP_TCP_RTO_TIME              1000
#define TCP_MSL                        10000UL
#define SO_REUSE                       1 /* listen again while old connections are in TIME_WAIT */
#define LWIP_TCP_PCB_NUM_EXT_ARGS      1
#define LWIP_DISABLE_TCP_SANITY_CHECKS 1 /* they assume that a window must fit into PBUF_POOL */

/* --- IP: no fragments, no forwarding --------------------------------------------------------- */

#define LWIP_IPV4                      1
#define IP_FORWARD                     0
#define IP_FRAG                        0
#define IP_REASSEMBLY                  0
#define LWIP_ICMP                      1
#define LWIP_IGMP                      0
#define LWIP_ARP                       1
#define ETH_PAD_SIZE                   0
#define LWIP_RAW                       0
#define LWIP_UDP                       1
#define LWIP_DNS                       0

#define LWIP_DHCP                      1
#define DHCP_DOES_ARP_CHECK            0 /* seconds of waiting for an address nobody else has */
#define LWIP_DHCP_DOES_ACD_CHECK       0
#define LWIP_NETIF_HOSTNAME            1

#define LWIP_IPV6                      1
#define LWIP_IPV6_FRAG                 0
#define LWIP_IPV6_REASS                0
#define LWIP_IPV6_FORWARD              0
#define LWIP_IPV6_AUTOCONFIG           1
#define LWIP_IPV6_DHCP6                0
#define LWIP_IPV6_MLD                  1
#define LWIP_ICMP6                     1
#define LWIP_IPV6_DUP_DETECT_ATTEMPTS  0 /* as with ARP: no second of waiting */
#define MEMP_NUM_MLD6_GROUP            8
#define LWIP_ND6_QUEUEING              1

#define LWIP_NETIF_STATUS_CALLBACK     1
#define LWIP_NETIF_LINK_CALLBACK       1

/* --- Checksums: the card's where it offers them, per interface -------------------------------- */

#define LWIP_CHECKSUM_CTRL_PER_NETIF   1
#define LWIP_CHKSUM                    net_chksum
#define LWIP_CHECKSUM_ON_COPY          0

/* --- Hooks ------------------------------------------------------------------------------------ */

#define LWIP_HOOK_FILENAME             "net/lwip_hooks.h"
#define LWIP_HOOK_TCP_INPACKET_PCB(pcb, hdr, optlen, opt1len, opt2, p) \
    net_hook_tcp_in(pcb, hdr, optlen, opt1len, opt2, p)
#define LWIP_HOOK_TCP_ISN(local, port, remote, rport)    net_random()
#define LWIP_HOOK_TCP_OUT_ADD_TCPOPTS(p, hdr, pcb, opts) net_hook_tcp_out(p, hdr, pcb, opts)

#endif
