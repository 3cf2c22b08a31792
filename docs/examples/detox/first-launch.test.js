// A deferred deep link, then a deep link into the installed app. docs/examples/run.py runs it: it has tapped
// the short link before, as the phone's browser does before the store.
//
// The app reads firstopenUrl from its launch arguments (react-native-launch-arguments, in debug builds), and
// shows the screen and the parameters that firstopen answers.

const appears = (text) => waitFor(element(by.text(text))).toBeVisible().withTimeout(10000);

describe('links', () => {
  beforeAll(async () => {
    await device.launchApp({
      delete: true,
      newInstance: true,
      launchArgs: { firstopenUrl: process.env.FIRSTOPEN_URL },
    });
  });

  it('a first launch lands on the product whose link was tapped before the install', async () => {
    await appears('Product 1');
  });

  it('a link into the installed app lands on its category', async () => {
    await device.openURL({ url: 'acme://category/shoes' });
    await appears('Category shoes');
  });
});
