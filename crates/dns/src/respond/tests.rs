//! The message rules: codes, sizes, EDNS, and that no bytes whatever do harm.

use std::net::Ipv4Addr;

use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData};
use proptest::prelude::*;
use weft_model::{Endpoint, EndpointSlice, ObjectKey, Service, ServiceType};

use super::*;

fn service(name: &str, external_name: Option<&str>) -> Service {
    Service {
        type_: if external_name.is_some() {
            ServiceType::ExternalName
        } else {
            ServiceType::ClusterIp
        },
        headless: external_name.is_none(),
        external_name: external_name.map(Into::into),
        ..Service::named(ObjectKey::new("shop", name))
    }
}

/// A headless Service with `count` endpoints, and one that leads outside.
fn responder(count: u32) -> Responder {
    let responder = Responder::new(Zone::new("cluster.local", ObjectKey::new("a", "b"), Vec::new()).unwrap());
    let endpoint = |i: u32| Endpoint {
        addresses: vec![Ipv4Addr::from(0x0af4_0000 + i).into()],
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node_name: None,
        zone: None,
        for_nodes: Vec::new(),
        for_zones: Vec::new(),
        pod: None,
    };
    let slice = EndpointSlice {
        key: ObjectKey::new("shop", "db-1"),
        service: "db".into(),
        ports: Vec::new(),
        endpoints: (0..count).map(endpoint).collect(),
    };
    responder.apply(&Change::Service(service("db", None)));
    responder.apply(&Change::Service(service("out", Some("www.example.com"))));
    responder.apply(&Change::EndpointSlice(slice));
    responder.apply(&Change::Synced);
    responder
}

fn question(name: &str) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message
}

fn answer(responder: &Responder, request: &Message, transport: Transport) -> Message {
    match responder.handle(&request.to_vec().unwrap(), transport) {
        Outcome::Answer(bytes) => {
            let answer = Message::from_vec(&bytes).unwrap();
            assert_eq!(answer.metadata.id, request.metadata.id);
            assert_eq!(answer.metadata.message_type, MessageType::Response);
            assert!(transport == Transport::Tcp || bytes.len() <= usize::from(UDP_LIMIT));
            answer
        }
        other => panic!("not an answer: {other:?}"),
    }
}

const DB: &str = "db.shop.svc.cluster.local.";

#[test]
fn an_answer_is_authoritative_and_repeats_the_question() {
    let request = question("dB.Shop.svc.cluster.local.");
    let answer = answer(&responder(3), &request, Transport::Udp);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_desired && !answer.metadata.truncation);
    assert_eq!(answer.answers.len(), 3);
    assert_eq!(answer.queries[0].name.to_ascii(), "dB.Shop.svc.cluster.local.");
    assert!(answer.edns.is_none(), "no EDNS unasked");
}

#[test]
fn what_does_not_fit_is_cut_and_marked() {
    let responder = responder(200);
    let plain = answer(&responder, &question(DB), Transport::Udp);
    assert!(plain.metadata.truncation && plain.answers.len() > 5);
    assert!(plain.to_vec().unwrap().len() <= 512);

    let mut request = question(DB);
    request.set_edns(own_edns(false));
    let larger = answer(&responder, &request, Transport::Udp);
    assert!(larger.metadata.truncation && larger.answers.len() > plain.answers.len());
    assert_eq!(larger.edns.unwrap().max_payload(), UDP_LIMIT);

    let whole = answer(&responder, &question(DB), Transport::Tcp);
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 200);
}

#[test]
fn the_order_of_addresses_changes() {
    let responder = responder(8);
    let first = || answer(&responder, &question(DB), Transport::Udp).answers[0].clone();
    let one = first();
    assert!((0..100).any(|_| first() != one));
}

#[test]
fn before_the_first_sync_nothing_is_denied() {
    let responder = Responder::new(Zone::new("cluster.local", ObjectKey::new("a", "b"), Vec::new()).unwrap());
    let answer = answer(&responder, &question(DB), Transport::Udp);
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let outcome = responder.handle(&question("example.com.").to_vec().unwrap(), Transport::Udp);
    assert!(matches!(outcome, Outcome::Forward(_)), "names of others need no sync");
}

#[test]
fn what_is_not_a_plain_question_is_refused_by_its_code() {
    let responder = responder(1);
    let code = |change: &dyn Fn(&mut Message)| {
        let mut request = question(DB);
        change(&mut request);
        answer(&responder, &request, Transport::Udp).metadata.response_code
    };
    assert_eq!(code(&|m| m.metadata.op_code = OpCode::Notify), ResponseCode::NotImp);
    assert_eq!(code(&|m| m.queries.clear()), ResponseCode::FormErr);
    assert_eq!(code(&|m| m.queries.push(m.queries[0].clone())), ResponseCode::FormErr);
    assert_eq!(
        code(&|m| m.queries[0].query_class = DNSClass::CH),
        ResponseCode::Refused
    );
    assert_eq!(
        code(&|m| m.queries[0].query_type = RecordType::AXFR),
        ResponseCode::Refused
    );
    assert_eq!(
        code(&|m| m.queries[0].query_type = RecordType::ANY),
        ResponseCode::NoError
    );
    let version = |m: &mut Message| {
        let mut edns = own_edns(false);
        edns.set_version(1);
        m.set_edns(edns);
    };
    // 16 has two names.
    assert_eq!(u16::from(code(&version)), u16::from(ResponseCode::BADVERS));
}

#[test]
fn responses_and_scraps_get_silence() {
    let responder = responder(1);
    let mut response = question(DB);
    response.metadata.message_type = MessageType::Response;
    assert!(matches!(
        responder.handle(&response.to_vec().unwrap(), Transport::Udp),
        Outcome::Silence
    ));
    assert!(matches!(responder.handle(&[0; 11], Transport::Udp), Outcome::Silence));
    assert!(matches!(responder.handle(&[], Transport::Tcp), Outcome::Silence));
}

#[test]
fn a_broken_question_gets_a_format_error() {
    let mut bytes = question(DB).to_vec().unwrap();
    bytes.truncate(20);
    let Outcome::Answer(answer) = responder(1).handle(&bytes, Transport::Udp) else {
        panic!("silence")
    };
    assert_eq!(
        Message::from_vec(&answer).unwrap().metadata.response_code,
        ResponseCode::FormErr
    );
}

#[test]
fn a_cname_that_leads_outside_is_finished_by_upstream() {
    let request = question("out.shop.svc.cluster.local.");
    let outcome = responder(1).handle(&request.to_vec().unwrap(), Transport::Udp);
    let Outcome::Forward(pending) = outcome else {
        panic!("{outcome:?}")
    };
    let asked = pending.request();
    assert_eq!(asked.queries[0].name.to_ascii(), "www.example.com.");
    assert_ne!(
        pending.request().metadata.id,
        pending.request().metadata.id,
        "a new number each time"
    );
    let mut said = Message::response(1, OpCode::Query);
    let data = RData::A(A::new(192, 0, 2, 1));
    said.add_answer(Record::from_rdata(asked.queries[0].name.clone(), 60, data));
    let done = Message::from_vec(&pending.finish(Some(said))).unwrap();
    let kinds: Vec<_> = done.answers.iter().map(Record::record_type).collect();
    assert_eq!(kinds, [RecordType::CNAME, RecordType::A]);
    assert_eq!(done.metadata.id, request.metadata.id);
    assert_eq!(done.queries, request.queries);
}

#[test]
fn no_upstream_is_a_server_failure() {
    let Outcome::Forward(pending) = responder(1).handle(&question("x.org.").to_vec().unwrap(), Transport::Udp) else {
        panic!("not forwarded")
    };
    assert_eq!(
        Message::from_vec(&pending.finish(None)).unwrap().metadata.response_code,
        ResponseCode::ServFail
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes in, nothing breaks, and whatever goes out can be read.
    #[test]
    fn no_bytes_do_harm(
        flips in prop::collection::vec((0_usize..80, any::<u8>()), 0..6),
        noise in prop::collection::vec(any::<u8>(), 0..200),
        known in any::<bool>(),
        tcp in any::<bool>(),
    ) {
        let mut bytes = noise;
        if known {
            let mut request = question(DB);
            request.set_edns(own_edns(true));
            bytes = request.to_vec().unwrap();
            for (at, value) in flips {
                let length = bytes.len();
                bytes[at % length] = value;
            }
        }
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        match responder(40).handle(&bytes, transport) {
            Outcome::Silence => {}
            Outcome::Answer(out) => {
                let read = Message::from_vec(&out).unwrap();
                prop_assert_eq!(&out[..2], &bytes[..2]);
                prop_assert_eq!(read.metadata.message_type, MessageType::Response);
            }
            Outcome::Forward(pending) => {
                prop_assert!(Message::from_vec(&pending.request().to_vec().unwrap()).is_ok());
                prop_assert!(Message::from_vec(&pending.finish(None)).is_ok());
            }
        }
    }
}
