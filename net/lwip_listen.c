/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Listeners. Host names are addresses ("0.0.0.0", "::", "10.0.2.15"); nothing is resolved. An absent
 * or empty host means every address, and "::" includes IPv4 unless that is off, as on Linux.
 * An address need not be ours yet: DHCP may still bring it.
 */
#include "net/lwip_net.h"

#include <stdlib.h>
#include <string.h>

#include "lwip/ip_addr.h"

struct net_listener {
    struct tcp_pcb *pcb;
    void (*accepted)(void *ctx, struct stream *s);
    void *ctx;
};

static err_t on_accept(void *arg, struct tcp_pcb *pcb, err_t err)
{
    struct net_listener *l = arg;
    if (!pcb || err != ERR_OK)
        return ERR_VAL;
    struct tcp_stream *t = tcp_stream_new(pcb);
    if (!t) {
        log_limited("net", "%s: connection refused: out of memory, or a silly segment size",
                    ipaddr_ntoa(&pcb->remote_ip));
        return ERR_MEM; /* lwIP resets it */
    }
    TRACE(stream_open, net_stream_count, pcb->remote_port);
    l->accepted(l->ctx, &t->s);
    return ERR_OK;
}

static int parse_address(const struct listen_address *a, ip_addr_t *out, struct error *err)
{
    const char *host = a->host ? a->host : "";
    bool any = !*host || (!strcmp(host, "::") && !a->ipv4_off);
    if (any && !a->ipv4_off && !a->ipv6_off)
        ip_addr_copy(*out, *IP_ANY_TYPE);
    else if (!*host)
        ip_addr_set_any(a->ipv4_off, out);
    else if (!ipaddr_aton(host, out))
        return error_set(err, SR_EINVAL,
                         "address resolution failed for %s:%s: Name or service not known", host,
                         a->port ? a->port : "");
    return 0;
}

static int parse_port(const struct listen_address *a, u16_t *out, struct error *err)
{
    char *end = NULL;
    unsigned long n = a->port ? strtoul(a->port, &end, 10) : 0;
    if (!end || end == a->port || *end || n > UINT16_MAX)
        return error_set(err, SR_EINVAL, "port '%s' is not a number from 0 to 65535",
                         a->port ? a->port : "");
    *out = (u16_t)n;
    return 0;
}

static int open_pcb(struct net_listener *l, const ip_addr_t *ip, u16_t port, unsigned backlog,
                    struct error *err)
{
    struct tcp_pcb *pcb = tcp_new_ip_type(IP_GET_TYPE(ip)), *listening = NULL;
    err_t rc = ERR_MEM;
    if (!pcb)
        return error_set(err, SR_ENOMEM, "Failed to create a socket: %s", sr_strerror(SR_ENOMEM));
    ip_set_option(pcb, SOF_REUSEADDR);
    if ((rc = tcp_bind(pcb, ip, port)) == ERR_OK)
        listening = tcp_listen_with_backlog_and_err(pcb, (u8_t)MIN(backlog, 255u), &rc);
    if (!listening) {
        tcp_close(pcb);
        int code = rc == ERR_USE ? SR_EADDRINUSE : SR_ENOMEM;
        return error_set(err, code, "Failed to find an available port: %s", sr_strerror(code));
    }
    l->pcb = listening;
    tcp_arg(listening, l);
    tcp_accept(listening, on_accept);
    tcp_rx_listen(listening);
    return 0;
}

struct net_listener *net_listen(const struct listen_address *a, unsigned backlog,
                                void (*accepted)(void *ctx, struct stream *s), void *ctx,
                                struct error *err)
{
    ip_addr_t ip;
    u16_t port = 0;
    net_start();
    if (a->type != ADDR_INET) {
        error_set(err, SR_ENOTSUP, "this machine has TCP sockets only");
        return NULL;
    }
    if (parse_address(a, &ip, err) || parse_port(a, &port, err))
        return NULL;
    struct net_listener *l = sr_calloc(1, sizeof(*l));
    if (!l) {
        error_set(err, SR_ENOMEM, "%s", sr_strerror(SR_ENOMEM));
        return NULL;
    }
    l->accepted = accepted;
    l->ctx = ctx;
    if (open_pcb(l, &ip, port, MAX(backlog, 1u), err)) {
        sr_free(l);
        return NULL;
    }
    return l;
}

void net_unlisten(struct net_listener *l)
{
    tcp_close(l->pcb);
    sr_free(l);
}
