import 'dart:async';
import 'dart:convert';
import 'dart:io';

import 'package:firstopen/firstopen.dart';
import 'package:firstopen/src/own_link.dart';
import 'package:test/test.dart';

const link = 'https://acme.link/fb-promo';
const home = {'screen': 'home', 'params': <String, String>{}, 'url': null, 'reason': 'default'};
const product = {
  'screen': 'product',
  'params': {'id': '7'},
  'url': 'https://acme.com/product/7',
  'reason': 'matched',
};

typedef Reply = ({int status, Map<String, Object?> body, String? retryAfter});

Reply refused(int status, {String? retryAfter}) => (status: status, body: const {}, retryAfter: retryAfter);
Reply answered({
  Map<String, Object?> route = product,
  String? clickId = 'd0UtZqE0BZuBPrJS',
  int? retryAfterMs,
  Map<String, Object?>? gate,
}) =>
    (
      status: 200,
      body: {
        'openId': 'open-1',
        'clickId': clickId,
        'route': route,
        'gate': gate,
        'pending': retryAfterMs != null,
        if (retryAfterMs != null) 'retryAfterMs': retryAfterMs,
      },
      retryAfter: null,
    );
Reply pending(int retryAfterMs) => answered(route: home, clickId: null, retryAfterMs: retryAfterMs);

class TestPhone implements Phone {
  TestPhone(this.os);

  @override
  final String os;
  final stored = <String, String>{};
  PlayReferrer? referrer;
  String copied = '';
  var reads = 0;

  @override
  String? get appVersion => '2.3';
  @override
  Future<String?> read(String key) async => stored[key];
  @override
  Future<void> write(String key, String value) async => stored[key] = value;
  @override
  Future<DateTime?> installedAt() async => DateTime.fromMillisecondsSinceEpoch(1790000000000);
  @override
  Future<PlayReferrer?> installReferrer() async => referrer;
  @override
  Future<bool> clipboardHasText() async => copied.isNotEmpty;
  @override
  Future<String?> readClipboard() async {
    reads++;
    return copied;
  }
}

void main() {
  late HttpServer server;
  late List<Reply> replies;
  late List<({String request, Map<String, dynamic> body})> calls;
  late List<Duration> waits;
  late List<Object> errors;
  late Completer<Landing> lateLanding;

  setUp(() async {
    replies = [];
    calls = [];
    waits = [];
    errors = [];
    lateLanding = Completer();
    server = await HttpServer.bind(InternetAddress.loopbackIPv4, 0);
    server.listen((request) async {
      final text = await utf8.decodeStream(request);
      calls.add((
        request: '${request.method} ${request.uri.path}',
        body: text.isEmpty ? <String, dynamic>{} : jsonDecode(text) as Map<String, dynamic>,
      ));
      final reply = replies.isEmpty ? refused(418) : replies.removeAt(0);
      request.response.statusCode = reply.status;
      if (reply.retryAfter != null) request.response.headers.set('Retry-After', reply.retryAfter!);
      request.response.write(jsonEncode(reply.body));
      await request.response.close();
    });
  });

  tearDown(() => server.close(force: true));

  Firstopen app(TestPhone phone, {Future<bool> Function()? mayPaste}) => Firstopen(
        baseUrl: 'http://127.0.0.1:${server.port}/',
        publishableKey: 'dub_pk_acme',
        domains: ['acme.link'],
        phone: phone,
        mayPaste: mayPaste,
        onError: errors.add,
        sleep: (wait) async => waits.add(wait),
      )..onLate = lateLanding.complete;

  test('a cold start is reported once, with what the server reads', () async {
    replies = [answered()];
    final phone = TestPhone('ios');
    final firstopen = app(phone);
    final landings = await Future.wait([firstopen.start(Uri.parse(link)), firstopen.start(Uri.parse(link))]);
    expect(landings.first, same(landings.last));
    expect((landings.first.screen, landings.first.params), ('product', {'id': '7'}));
    expect(calls.single.request, 'POST /v1/opens');
    expect(calls.single.body, {
      'deepLink': link,
      'dubDomain': 'acme.link',
      'installId': phone.stored['firstopen.installId'],
      'platform': 'ios',
      'appVersion': '2.3',
      'budgetMs': 1500,
      'installedAt': 1790000000,
    });
  });

  test('a build that is held at the gate gets its screen with the landing', () async {
    const gate = {'kind': 'update', 'screen': 'update', 'url': 'https://acme.com/get', 'message': null};
    replies = [answered(gate: gate)];
    final held = (await app(TestPhone('ios')).start(Uri.parse(link))).gate;
    expect((held?.kind, held?.screen, held?.url, held?.message), ('update', 'update', 'https://acme.com/get', null));
  });

  test('a later cold start without a link is not reported; one after a failure is, with the same id', () async {
    replies = [refused(503), answered()];
    final phone = TestPhone('android');
    expect((await app(phone).start()).screen, 'home');
    await app(phone).start();
    expect((await app(phone).start()).openId, isNull);
    expect(calls.map((call) => call.body['installId']).toSet(), hasLength(1));
    expect(calls, hasLength(2));
  });

  test('Android sends the install referrer with Play\'s two times, without those that Play does not know', () async {
    replies = [answered(), answered()];
    await app(TestPhone('android')..referrer = (raw: 'deepLink=x', clickedAt: 5, installBeganAt: 6)).start();
    await app(TestPhone('android')..referrer = (raw: 'deepLink=x', clickedAt: 0, installBeganAt: 0)).start();
    expect(calls.first.body, containsPair('installReferrer', 'deepLink=x'));
    expect((calls.first.body['referrerClickedAt'], calls.first.body['installBeganAt']), (5, 6));
    expect(calls.last.body.keys, isNot(contains('referrerClickedAt')));
  });

  test('the clipboard is read only after the app has asked, and only a link of ours is sent', () async {
    for (final (mayPaste, copied, sent, reads) in [
      (true, 'see $link!', link, 1),
      (true, 'my password', null, 1),
      (false, link, null, 0),
      (null, link, null, 0),
    ]) {
      calls.clear();
      replies = [answered()];
      final phone = TestPhone('ios')..copied = copied;
      await app(phone, mayPaste: mayPaste == null ? null : () async => mayPaste).start();
      expect((calls.single.body['clipboard'], phone.reads), (sent, reads));
    }
  });

  test('a warm start is an open of its own; the repeated link of a cold start is not', () async {
    replies = [answered(), answered(), refused(401)];
    final firstopen = app(TestPhone('ios'));
    final started = firstopen.start(Uri.parse(link));
    expect(await firstopen.opened(Uri.parse(link)), isNull);
    await started;
    expect(await firstopen.opened(Uri.parse('$link-2')), isNotNull);
    expect(await firstopen.opened(Uri.parse('$link-3')), isNull);
    expect(calls, hasLength(3));
  });

  test('a pending answer is asked for until it is final; Retry-After counts', () async {
    replies = [pending(2000), refused(503), refused(429, retryAfter: '9'), pending(5000), answered()];
    await app(TestPhone('ios')).start();
    expect((await lateLanding.future).screen, 'product');
    expect(waits.map((wait) => wait.inMilliseconds), [2000, 4000, 9000, 5000]);
    expect(calls.last.request, 'GET /v1/opens/open-1');
  });

  test('a person who has moved on is left alone', () async {
    replies = [pending(2000)];
    final moved = Completer<void>();
    final firstopen = Firstopen(
      baseUrl: 'http://127.0.0.1:${server.port}',
      publishableKey: 'dub_pk_acme',
      domains: ['acme.link'],
      phone: TestPhone('ios'),
      onError: errors.add,
      sleep: (_) => moved.future,
    )..onLate = lateLanding.complete;
    await firstopen.start();
    firstopen.movedOn();
    moved.complete();
    await pumpEventQueue();
    expect(calls, hasLength(1));
    expect(lateLanding.isCompleted, isFalse);
  });

  test('a lead is sent again with the same body on 5xx and 429, and not after a refusal', () async {
    replies = [refused(503), refused(429, retryAfter: '7'), answered(), refused(403)];
    replies[2] = (status: 202, body: {'leadId': 'lead-1', 'status': 'queued'}, retryAfter: null);
    final firstopen = app(TestPhone('ios'));
    final answer = await firstopen.lead(eventName: 'Sign up', customerExternalId: 'user_1');
    expect((answer.leadId, answer.status), ('lead-1', 'queued'));
    expect(waits.map((wait) => wait.inSeconds), [1, 7]);
    for (final call in calls) {
      expect(call.body, {
        'eventName': 'Sign up',
        'customerExternalId': 'user_1',
        'installId': await firstopen.installId(),
      });
    }
    final again = firstopen.lead(eventName: 'Sign up', customerExternalId: 'user_2');
    await expectLater(again, throwsA(isA<FirstopenException>().having((it) => it.status, 'status', 403)));
    expect(calls, hasLength(4));
  });

  test('only a link of ours leaves the clipboard', () {
    for (final (text, own) in [
      ('dear anna, $link is great', link),
      ('Seen $link?! Bye', link),
      ('https://acme.link.evil.example/x', null),
      ('https://acme.link@evil.example/x', null),
      ('https://anna:secret@acme.link/x', null),
    ]) {
      expect(ownLink(text, ['acme.link']), own, reason: text);
    }
  });
}
